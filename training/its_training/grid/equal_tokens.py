"""Compares ways of asking that cost different numbers of tokens: each gets as many candidates as the budget pays for.

A persona lengthens the prompt and may lengthen the reply. The budget is what another way's full vote costs an item on
average; a dearer way gets fewer candidates for it, as a rule not a whole number: its vote is then the mean of the vote
with one fewer and the vote with one more, weighted so that the cost is met.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import floor

from its_proxy.candidates import Row
from its_proxy.metrics import Metric, value
from its_training.grid.cells import Grid
from its_training.grid.values import Measure, tokens_of, values


@dataclass(frozen=True, slots=True)
class Way:
    """An arm asked in one way."""

    trained: str
    asked: str

    def __str__(self) -> str:
        return f"{self.trained} asked as {self.asked}"


def cost(grid: Grid, way: Way, split: str, n: int) -> float:
    """Mean tokens of an item, prompt once and the first n completions, over all seeds."""
    found = values(grid, way.trained, way.asked, split, _tokens(n))
    if found is None:
        raise KeyError(str(way))
    return found.mean


def n_affordable(grid: Grid, way: Way, split: str, budget: float) -> float:
    """How many candidates the budget pays for, at most all and at least one, between whole numbers by their cost."""
    n_all = grid.spec.vote.n
    costs = [cost(grid, way, split, n) for n in range(1, n_all + 1)]
    if budget >= costs[-1]:
        return float(n_all)
    if budget <= costs[0]:
        return 1.0
    last = max(n for n in range(1, n_all) if costs[n - 1] <= budget)
    return last + (budget - costs[last - 1]) / (costs[last] - costs[last - 1])


@lru_cache(maxsize=256)
def majority_of(n: float) -> Measure:
    """maj@n; between whole numbers, the weighted mean of the two next to n."""
    low = floor(n)
    share = n - low

    def measure(row: Row) -> float:
        fewer = value(row, Metric("maj", low))
        return fewer if share == 0 else (1 - share) * fewer + share * value(row, Metric("maj", low + 1))

    return measure


@lru_cache(maxsize=64)
def _tokens(n: int) -> Measure:
    return lambda row: float(tokens_of(row, row.candidates[:n]))
