"""Evaluation words -> one value an item: `greedy`, `pass@k`, `avg@k`, `maj@k`.

    >>> [value(row, read_metric("maj@4")) for row in rows]
    [1.0, 0.34375, 0.0]

Every value lies in [0, 1], so a mean over items is an accuracy and a difference can be paired item by item.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from random import Random
from typing import Literal, TypeAlias

from its_proxy.candidates import CandidateRow, Row, cast
from its_proxy.codesign.errors import ConfigError
from its_proxy.statistics import Estimate, clustered_interval, pass_at_k, wilson
from its_proxy.voting.tally import Ballot, majority_vote

Kind: TypeAlias = Literal["greedy", "pass", "avg", "maj"]
N_DRAWS = 32
"""Votes over fewer candidates than a row has: so many sets of them are drawn, or all that there are."""

_SPELLED = re.compile(r"greedy|(?P<kind>pass|avg|maj)@(?P<k>[1-9][0-9]{0,3})")


@dataclass(frozen=True, slots=True)
class Metric:
    """`k` is 0 for `greedy`, which no candidates are drawn for."""

    kind: Kind
    k: int = 0

    @property
    def name(self) -> str:
        return self.kind if self.kind == "greedy" else f"{self.kind}@{self.k}"

    def is_right_or_wrong(self, n: int) -> bool:
        """Whether each item's value is 0 or 1, where n candidates were asked."""
        return self.kind == "greedy" or (self.kind == "maj" and self.k == n) or (self.kind, self.k) == ("pass", n)


def read_metric(written: str) -> Metric:
    """Raises ConfigError."""
    spelled = _SPELLED.fullmatch(written.strip().lower())
    if spelled is None:
        raise ConfigError(f"no metric {written!r}", hint="greedy, pass@K, avg@K or maj@K, such as maj@8")
    if spelled["kind"] is None:
        return Metric("greedy")
    return Metric(spelled["kind"], int(spelled["k"]))  # type: ignore[arg-type]  # one of the three, by the pattern


def value(row: Row, metric: Metric) -> float:
    """What one item is worth. Raises ConfigError where it was not asked so, or has no gold answer."""
    if row.gold is None:
        raise ConfigError(f"{metric.name}: item {row.id} has no gold answer")
    if metric.kind == "greedy":
        if row.greedy is None:
            raise ConfigError(f"greedy: item {row.id} was not asked greedily", hint="evaluate without --no-greedy")
        return float(row.is_right(row.greedy.read))
    n = len(row.candidates)
    if metric.k > n:
        raise ConfigError(f"{metric.name}: item {row.id} has {n} candidates", hint=f"evaluate with --n {metric.k}")
    match metric.kind:
        case "pass":
            return pass_at_k(n, sum(row.is_right(candidate.read) for candidate in row.candidates), metric.k)
        case "avg":
            return sum(row.is_right(candidate.read) for candidate in row.candidates[: metric.k]) / metric.k
        case _:
            return _majority(row, metric.k)


def values(rows: Sequence[Row], metric: Metric) -> list[float]:
    """One value an item, in the order of the rows. Raises ConfigError."""
    return [value(row, metric) for row in rows]


def estimate(per_item: Sequence[float], metric: Metric, n: int) -> Estimate:
    """The mean with its interval: Wilson's where each of the items, of n candidates, is right or wrong."""
    if metric.is_right_or_wrong(n):
        return wilson(round(sum(per_item)), len(per_item))
    return clustered_interval(per_item)


def _majority(row: Row, k: int) -> float:
    """The chance that the vote of k of the candidates is right.

    The first k alone would be one draw of many that the row holds; all sets of k together say the same with less
    noise, and so does a sample of them.
    """
    ballots = {ballot.index: ballot for ballot in cast(row.candidates)[0]}
    votes = [
        majority_vote(_cast_by(candidates, ballots), equivalent=row.comparisons.equivalent)
        for candidates in _draws(row, k)
    ]
    return sum(row.is_right(vote.answer) for vote in votes) / len(votes)


def _cast_by(candidates: Sequence[CandidateRow], ballots: dict[int, Ballot]) -> list[Ballot]:
    return [ballots[candidate.index] for candidate in candidates if candidate.index in ballots]


def _draws(row: Row, k: int) -> Iterator[Sequence[CandidateRow]]:
    if comb(len(row.candidates), k) <= N_DRAWS:
        yield from combinations(row.candidates, k)
        return
    # Seeded by the item, so that two checkpoints are compared over the same places.
    random = Random(f"maj@{k}:{row.id}")
    for _ in range(N_DRAWS):
        yield random.sample(row.candidates, k)
