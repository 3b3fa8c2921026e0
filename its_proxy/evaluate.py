"""Measures candidates files: how good is one candidate, the vote, the greedy reply, and a stop rule?

rows = read_candidates(Path("candidates.jsonl"))
print(as_markdown([score(rows)]))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from its_proxy.candidates import CandidateRow, Item, Row, digest, read_candidates, read_items
from its_proxy.codesign.errors import ConfigError
from its_proxy.collect import collect
from its_proxy.replay import Replay, replay
from its_proxy.statistics import Estimate, clustered_interval, paired_difference, pass_at_k, wilson
from its_proxy.voting.answers import Answer
from its_proxy.voting.tally import Vote

__all__ = [
    "CandidateRow",
    "Comparison",
    "Item",
    "Replay",
    "Row",
    "Score",
    "as_markdown",
    "collect",
    "compare",
    "read_candidates",
    "read_items",
    "replay",
    "score",
]


class Result(Protocol):
    """What `as_markdown` prints: cells under their column names."""

    def cells(self) -> dict[str, str]: ...


@dataclass(frozen=True, slots=True)
class Score:
    """What one way of asking is worth; proportions lie in [0, 1], with 95% intervals over items.

    `agreed_half` and `other_half` are the vote's accuracy where candidates agreed more and less.
    """

    model: str
    strategy: str | None
    is_forced: bool
    temperature: float | None
    n_items: int
    k: int
    pass_at_1: Estimate
    majority: Estimate
    greedy: Estimate | None
    majority_minus_pass: Estimate
    majority_minus_greedy: Estimate | None
    pass_at_k: float
    no_answer_rate: float
    tokens_per_item: float
    tokens_per_candidate: float
    agreed_half: Estimate | None
    other_half: Estimate | None

    def cells(self) -> dict[str, str]:
        asked = (self.strategy or "") + (" (forced)" if self.is_forced else "")
        return {
            "model": self.model,
            "asked": asked,
            "T": "" if self.temperature is None else f"{self.temperature:g}",
            "items": str(self.n_items),
            "pass@1": str(self.pass_at_1),
            f"maj@{self.k}": str(self.majority),
            "greedy": str(self.greedy or ""),
            f"maj@{self.k} - pass@1": str(self.majority_minus_pass),
            f"maj@{self.k} - greedy": str(self.majority_minus_greedy or ""),
            "more-agreed half": str(self.agreed_half or ""),
            "less-agreed half": str(self.other_half or ""),
            f"pass@{self.k}": f"{100 * self.pass_at_k:.1f}",
            "no answer": f"{100 * self.no_answer_rate:.1f}",
            "tokens an item": f"{self.tokens_per_item:.0f}",
        }


def score(rows: Sequence[Row]) -> Score:
    """Measures one candidates file; all its rows were asked in one way. Raises ConfigError."""
    k = _one_of({len(row.candidates) for row in rows}, "numbers of candidates")
    model, strategy, is_forced, temperature = _one_of(
        {(row.model, row.strategy, row.forced, row.temperature) for row in rows}, "ways of asking"
    )
    unlabelled = next((row.id for row in rows if row.gold is None), None)
    if unlabelled is not None:
        raise ConfigError(f"item {unlabelled} has no gold answer: there is nothing to score")
    votes = [row.vote() for row in rows]
    shares = [row.share_right for row in rows]
    majority = _rights(rows, [vote.answer for vote in votes])
    greedy = _greedy(rows)
    candidates = [candidate for row in rows for candidate in row.candidates]
    n_tokens = sum(candidate.completion_tokens or 0 for candidate in candidates)
    agreed, other = _halves(rows, votes, majority)
    return Score(
        model=model,
        strategy=strategy,
        is_forced=is_forced,
        temperature=temperature,
        n_items=len(rows),
        k=k,
        pass_at_1=clustered_interval(shares),
        majority=wilson(sum(majority), len(rows)),
        greedy=wilson(sum(greedy), len(rows)) if greedy else None,
        majority_minus_pass=paired_difference(majority, shares),
        majority_minus_greedy=paired_difference(majority, greedy) if greedy else None,
        pass_at_k=sum(pass_at_k(k, round(share * k), k) for share in shares) / len(rows),
        no_answer_rate=sum(candidate.read is None for candidate in candidates) / len(candidates),
        tokens_per_item=n_tokens / len(rows),
        tokens_per_candidate=n_tokens / len(candidates),
        agreed_half=agreed,
        other_half=other,
    )


def _one_of(found: set[Any], what: str) -> Any:
    if len(found) != 1:
        raise ConfigError(f"one score needs rows of one kind, and these have {len(found)} {what}")
    return next(iter(found))


def _rights(rows: Sequence[Row], answers: Sequence[Answer | None]) -> list[int]:
    return [int(row.is_right(answer)) for row, answer in zip(rows, answers, strict=True)]


def _greedy(rows: Sequence[Row]) -> list[int] | None:
    """Right or not, an item; None unless every item was also asked greedily."""
    asked = [row.greedy for row in rows if row.greedy is not None]
    return _rights(rows, [candidate.read for candidate in asked]) if len(asked) == len(rows) else None


def _halves(
    rows: Sequence[Row], votes: Sequence[Vote], right: Sequence[int]
) -> tuple[Estimate | None, Estimate | None]:
    """Equal agreement is told apart by a digest of the id: an items file may be sorted by difficulty."""
    half = len(rows) // 2
    if half == 0:
        return None, None
    order = sorted(range(len(rows)), key=lambda item: (-votes[item].agreement, digest(rows[item].id)))
    more, less = (sum(right[item] for item in items) for items in (order[:half], order[half:]))
    return wilson(more, half), wilson(less, len(rows) - half)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired differences, first minus second, over the same items."""

    first: str
    second: str
    n_items: int
    pass_at_1: Estimate
    majority: Estimate
    greedy: Estimate | None

    def cells(self) -> dict[str, str]:
        return {
            "first": self.first,
            "second": self.second,
            "items": str(self.n_items),
            "pass@1": str(self.pass_at_1),
            "majority": str(self.majority),
            "greedy": str(self.greedy or ""),
        }


def compare(first: Sequence[Row], second: Sequence[Row]) -> Comparison:
    """Paired by id. Raises ConfigError where the two do not hold the same items."""
    by_id = {row.id: row for row in second}
    if {row.id for row in first} != by_id.keys() or not by_id:
        n_alike = sum(row.id in by_id for row in first)
        raise ConfigError(
            f"a paired comparison needs the same items: {n_alike} of {len(first)} and {len(second)} agree"
        )
    second = [by_id[row.id] for row in first]
    rights = [_rights(rows, [row.vote().answer for row in rows]) for rows in (first, second)]
    greedy = [_greedy(rows) for rows in (first, second)]
    return Comparison(
        first=_name(first),
        second=_name(second),
        n_items=len(first),
        pass_at_1=paired_difference([row.share_right for row in first], [row.share_right for row in second]),
        majority=paired_difference(*rights),
        greedy=paired_difference(greedy[0], greedy[1]) if greedy[0] and greedy[1] else None,
    )


def _name(rows: Sequence[Row]) -> str:
    return f"{rows[0].model} asked {rows[0].strategy}" + (" (forced)" if rows[0].forced else "")


def as_markdown(results: Sequence[Result]) -> str:
    """A table of scores, of comparisons or of replays; columns are those of all rows together."""
    rows = [result.cells() for result in results]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
