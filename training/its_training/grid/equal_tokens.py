"""Compares ways of asking that cost different numbers of tokens: each gets as many candidates as the budget pays for.

A persona lengthens the prompt and may lengthen the reply. The budget is what the cheapest way's full vote costs an
item on average; a dearer way gets fewer candidates for it, as a rule not a whole number: its vote is then the mean of
the vote with one fewer and the vote with one more, weighted so that the cost is met.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

from its_proxy.candidates import Row
from its_training.grid.cells import Grid
from its_training.grid.values import Metric, tokens_of, values


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


_metrics: dict[tuple[str, float], Metric] = {}


def majority_of(n: float) -> Metric:
    """maj@n over the first candidates; between whole numbers, the weighted mean of the two next to n."""
    return _metrics.setdefault(("majority", n), lambda row: _mixed(row, n))


def _mixed(row: Row, n: float) -> float:
    low = floor(n)
    share = n - low
    value = _right(row, low)
    return value if share == 0 else (1 - share) * value + share * _right(row, low + 1)


def _right(row: Row, n: int) -> float:
    return float(row.is_right(row.vote(row.candidates[:n]).answer))


def _tokens(n: int) -> Metric:
    return _metrics.setdefault(("tokens", n), lambda row: float(tokens_of(row, row.candidates[:n])))


def budget_of(grid: Grid, ways: Sequence[Way], split: str) -> float:
    """What the cheapest way's full vote costs an item."""
    return min(cost(grid, way, split, grid.spec.vote.n) for way in ways)
