"""Saved candidates arrive again: what would a smaller n or another stop rule have answered, cost and taken?

    >>> replay(rows, "exact").tokens_saved
    >>> sweep(rows, sizes=(1, 2, 4, 8), rules=("exact", "none"))

`replay` puts one rule beside the full vote; `sweep` is the table over n and rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal, TypeAlias

from its_proxy.candidates import CandidateRow, Row, cast
from its_proxy.codesign.errors import ConfigError
from its_proxy.statistics import Estimate, clustered_interval, score_interval, wilson
from its_proxy.voting.stop import is_decided
from its_proxy.voting.tally import Vote

Order: TypeAlias = int | Literal["tokens", "arrival"]
"""Shortest first, as they finished, or drawn with a seed."""

MAX_LOSS = 0.01
"""What a smaller n may lose on the items at hand: where they are few, the interval alone would let any n pass."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a stop rule would have done to saved candidates.

    `same_answer`: share of items whose answer class and verdict are the full vote's. `tokens_saved`:
    all candidates run side by side, a token a step, and one that is cancelled at step t has cost
    min(t, its length). `calls_saved`: asked one after the other instead, those never started.
    """

    rule: str
    order: str
    n_items: int
    same_answer: float
    tokens_saved: float
    calls_saved: float

    def cells(self) -> dict[str, str]:
        return {
            "rule": self.rule,
            "order of arrival": self.order,
            "items": str(self.n_items),
            "same answer": f"{100 * self.same_answer:.2f}%",
            "generated tokens saved": f"{100 * self.tokens_saved:.1f}%",
            "calls never started": f"{100 * self.calls_saved:.1f}%",
        }


def replay(
    rows: Sequence[Row], rule: str = "exact", order: Order = "tokens", min_agreement: float | None = None
) -> Replay:
    """One rule against the vote of all candidates. Raises ConfigError where a candidate's tokens are not known."""
    runs = [_run(row, row.candidates, rule, order, min_agreement) for row in rows]
    n_tokens = sum(tokens_of(row, candidate) for row in rows for candidate in row.candidates)
    n_calls = sum(len(row.candidates) for row in rows)
    return Replay(
        rule=rule,
        order=order_name(order),
        n_items=len(rows),
        same_answer=sum(
            _is_same(row, run.vote, row.vote(min_agreement=min_agreement)) for run, row in zip(runs, rows, strict=True)
        )
        / len(rows),
        tokens_saved=1 - sum(run.n_tokens for run in runs) / n_tokens if n_tokens else 0.0,
        calls_saved=1 - sum(run.n_arrived for run in runs) / n_calls,
    )


# --- the table over n and rules --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """What n candidates under one stop rule come to; means are per item.

    `accuracy` is None for unlabelled items, `seconds` unless they arrive as recorded. `n_calls` counts the candidates
    that had finished when the vote ended, the other ones are cut off. `worth_by_item`: 1 where the answer is right (for
    unlabelled items: where it is that of all candidates), else 0. `is_chosen`: the smallest n, and with it the fewest
    tokens, that lies at most `MAX_LOSS` below the best setting, and by the paired 95% interval not surely below it.
    """

    n: int
    rule: str
    accuracy: Estimate | None
    same_answer: Estimate
    n_tokens: float
    n_calls: float
    seconds: float | None
    worth_by_item: tuple[int, ...]
    is_chosen: bool = False

    @property
    def worth(self) -> Estimate:
        return self.accuracy if self.accuracy is not None else self.same_answer

    def cells(self) -> dict[str, str]:
        return {
            "n": str(self.n),
            "stop": self.rule,
            "accuracy": str(self.accuracy or ""),
            "same answer as all": str(self.same_answer),
            "tokens an item": f"{self.n_tokens:.0f}",
            "finished calls": f"{self.n_calls:.2f}",
            "seconds an item": "" if self.seconds is None else f"{self.seconds:.3f}",
            "": "smallest n that is good enough" if self.is_chosen else "",
        }


def sweep(
    rows: Sequence[Row],
    sizes: Sequence[int],
    rules: Sequence[str],
    order: Order | None = None,
    min_agreement: float | None = None,
) -> list[Setting]:
    """Votes again among the first n candidates of each item. Without an order: as they finished, where that is known.

    Raises ConfigError: no rows, more candidates wanted than there are, unknown tokens or finish times.
    """
    if not rows:
        raise ConfigError("no rows to replay")
    fewest = min(len(row.candidates) for row in rows)
    if max(sizes) > fewest or min(sizes) < 1:
        raise ConfigError(
            f"--n {max(sizes) if max(sizes) > fewest else min(sizes)}: the items hold {fewest} candidates"
        )
    order = order if order is not None else default_order(rows)
    settings = [_setting(rows, n, rule, order, min_agreement) for n in sorted(set(sizes)) for rule in rules]
    chosen = _chosen(settings)
    return [replace(setting, is_chosen=setting is chosen) for setting in settings]


def default_order(rows: Sequence[Row]) -> Order:
    return "arrival" if all(_is_timed(candidate) for row in rows for candidate in row.candidates) else "tokens"


def read_order(written: str) -> Order:
    """`arrival`, `tokens` or a seed. Raises ConfigError."""
    if written in ("arrival", "tokens"):
        return written  # type: ignore[return-value]  # one of the two, as just seen
    try:
        return int(written)
    except ValueError:
        raise ConfigError(f"--order {written}: arrival, tokens or a seed, which is a whole number") from None


def order_name(order: Order) -> str:
    return {"tokens": "shortest first", "arrival": "as they finished"}.get(str(order), f"seed {order}")


def _setting(rows: Sequence[Row], n: int, rule: str, order: Order, min_agreement: float | None) -> Setting:
    runs = [_run(row, row.candidates[:n], rule, order, min_agreement) for row in rows]
    same = [_is_same(row, run.vote, row.vote(min_agreement=min_agreement)) for run, row in zip(runs, rows, strict=True)]
    right = [row.is_right(run.vote.answer) for run, row in zip(runs, rows, strict=True)]
    seconds = [run.seconds for run in runs if run.seconds is not None]
    n_items = len(rows)
    is_labelled = all(row.gold is not None for row in rows)
    return Setting(
        n=n,
        rule=rule,
        accuracy=wilson(sum(right), n_items) if is_labelled else None,
        same_answer=wilson(sum(same), n_items),
        n_tokens=sum(run.n_tokens for run in runs) / n_items,
        n_calls=sum(run.n_arrived for run in runs) / n_items,
        seconds=clustered_interval(seconds).value if len(seconds) == n_items else None,
        worth_by_item=tuple(map(int, right if is_labelled else same)),
    )


def _chosen(settings: Sequence[Setting]) -> Setting:
    best = max(settings, key=lambda setting: setting.worth.value)
    # Item by item: the best one's own interval is so wide that a single candidate may lie in it.
    return next(
        setting
        for setting in sorted(settings, key=lambda setting: (setting.n, setting.n_tokens))
        if (lost := _difference(setting, best)).high >= 0 and lost.value >= -MAX_LOSS
    )


def _difference(one: Setting, other: Setting) -> Estimate:
    return score_interval([a - b for a, b in zip(one.worth_by_item, other.worth_by_item, strict=True)])


# --- one vote --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Run:
    vote: Vote
    n_arrived: int
    n_tokens: float
    seconds: float | None


def _run(row: Row, candidates: Sequence[CandidateRow], rule: str, order: Order, min_agreement: float | None) -> _Run:
    arrivals = _arrivals(row, candidates, order)
    n_arrived = _stopped_after(arrivals, rule, min_agreement)
    return _Run(
        vote=row.vote(arrivals[:n_arrived], min_agreement),
        n_arrived=n_arrived,
        n_tokens=_spent(row, arrivals, n_arrived, order),
        seconds=max(_finished_s(row, candidate) for candidate in arrivals[:n_arrived]) if order == "arrival" else None,
    )


def _arrivals(row: Row, candidates: Sequence[CandidateRow], order: Order) -> list[CandidateRow]:
    match order:
        case "tokens":
            return sorted(candidates, key=lambda candidate: (tokens_of(row, candidate), candidate.index))
        case "arrival":
            return sorted(candidates, key=lambda candidate: (_finished_s(row, candidate), candidate.index))
    # Seeded by the id too: the same order for every item would be one draw and not many.
    return Random(f"{order}:{row.id}").sample(candidates, len(candidates))


def _stopped_after(arrivals: Sequence[CandidateRow], rule: str, min_agreement: float | None) -> int:
    pending = sum(candidate.weight for candidate in arrivals)
    for n_arrived, candidate in enumerate(arrivals, start=1):
        pending -= candidate.weight
        ballots, abstained = cast(arrivals[:n_arrived])
        if is_decided(rule, ballots, abstained, pending, min_agreement):
            return n_arrived
    return len(arrivals)


def _spent(row: Row, arrivals: Sequence[CandidateRow], n_arrived: int, order: Order) -> float:
    """What all of them have generated when the vote ends, candidates cut off included."""
    lengths = [tokens_of(row, candidate) for candidate in arrivals]
    if order != "arrival":
        # Side by side, a token a step.
        last_step = max(lengths[:n_arrived])
        return sum(min(length, last_step) for length in lengths)
    ended_s = max(_finished_s(row, candidate) for candidate in arrivals[:n_arrived])
    return sum(length * _share_by(candidate, ended_s) for length, candidate in zip(lengths, arrivals, strict=True))


def _share_by(candidate: CandidateRow, ended_s: float) -> float:
    """The share of its tokens that a candidate has by then: none before the first one, then at an even pace."""
    assert candidate.finished_s is not None
    began_s = candidate.started_s if candidate.first_token_s is None else candidate.first_token_s
    lasts_s = candidate.finished_s - (began_s or 0.0)
    return 1.0 if candidate.finished_s <= ended_s else max(0.0, (ended_s - (began_s or 0.0)) / lasts_s)


def _is_same(row: Row, early: Vote, full: Vote) -> bool:
    if early.answer is None or full.answer is None:
        return early.answer is full.answer and early.consensus == full.consensus
    return row.comparisons.are_equal(early.answer, full.answer) and early.consensus == full.consensus


def _is_timed(candidate: CandidateRow) -> bool:
    return candidate.finished_s is not None


def _finished_s(row: Row, candidate: CandidateRow) -> float:
    if candidate.finished_s is None:
        raise ConfigError(
            f"item {row.id}, candidate {candidate.index}: it is not known when it finished", hint="--order tokens"
        )
    return candidate.finished_s


def tokens_of(row: Row, candidate: CandidateRow) -> int:
    """What a candidate generated. Raises ConfigError where it is not known."""
    if candidate.completion_tokens is not None:
        return candidate.completion_tokens
    if candidate.finish_reason is None:
        return 0  # lost: nothing of it was received
    raise ConfigError(f"item {row.id}, candidate {candidate.index}: its generated tokens are not known")
