"""Is a new checkpoint at most a margin worse than the old one? Paired non-inferiority, item by item.

    >>> verdict = decide(new_rows, old_rows, read_metric("maj@8"), margin=0.02)
    >>> verdict.decision, str(verdict.difference)
    ('pass', '0.4 [-1.1, 1.9]')

Pass: the whole 95% interval of new minus old lies above -margin. Fail: it lies below. Undecided: it holds -margin.
So a checkpoint that is worse by just the margin passes in at most about 2.5 of 100 gates, for few items as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from its_proxy.candidates import Row
from its_proxy.codesign.errors import ConfigError
from its_proxy.compared import as_sentence
from its_proxy.metrics import Metric, estimate, values
from its_proxy.statistics import Estimate, items_needed, score_interval

Decision: TypeAlias = Literal["pass", "fail", "undecided"]
METHOD = "paired score interval over items (Tango's for right and wrong answers), 95%"
N_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two checkpoints, as its candidates file tells of it."""

    model: str
    strategy: str | None
    is_forced: bool
    pair_id: str | None
    n: int
    temperature: float | None
    seed: int | None
    value: Estimate


@dataclass(frozen=True, slots=True)
class Verdict:
    """`difference` is new minus old; `margin` a proportion. What was won and lost are items' ids.

    `n_if_equal` and `n_if_as_seen`: the items that decide in 80 of 100 gates if both are equally good, and if the
    difference is the one seen; None where that is no more than there were, or nothing decides it. `equality`: how
    answers were compared.
    """

    decision: Decision
    metric: str
    margin: float
    n_items: int
    difference: Estimate
    new: Side
    old: Side
    won: tuple[str, ...]
    lost: tuple[str, ...]
    n_if_equal: int | None = None
    n_if_as_seen: int | None = None
    remarks: tuple[str, ...] = field(default=())
    equality: str = ""


def decide(
    new: Sequence[Row], old: Sequence[Row], metric: Metric, margin: float, *, allow_other_ways: bool = False
) -> Verdict:
    """Raises ConfigError where the two were not asked the same items in the same way."""
    if not 0 < margin <= 1:
        raise ConfigError(f"--margin {100 * margin:g}: more than 0 and at most 100 points")
    old = _paired(new, old)
    remarks = _other_ways(new, old, metric)
    if remarks and not allow_other_ways:
        raise ConfigError(f"asked in different ways: {'; '.join(remarks)}", hint="--allow-other-ways compares them")
    first, second = values(new, metric), values(old, metric)
    differences = [a - b for a, b in zip(first, second, strict=True)]
    difference = score_interval(differences)
    decision: Decision = "pass" if difference.low > -margin else "fail" if difference.high < -margin else "undecided"
    is_open = decision == "undecided"
    return Verdict(
        decision=decision,
        metric=metric.name,
        margin=margin,
        n_items=len(new),
        difference=difference,
        new=_side(new, first, metric),
        old=_side(old, second, metric),
        won=tuple(row.id for row, d in zip(new, differences, strict=True) if d > 0),
        lost=tuple(row.id for row, d in zip(new, differences, strict=True) if d < 0),
        n_if_equal=_needed(differences, margin) if is_open else None,
        n_if_as_seen=_needed(differences, abs(difference.value + margin)) if is_open else None,
        remarks=tuple(remarks),
        equality=as_sentence([*new, *old]),
    )


def _needed(differences: Sequence[float], distance: float) -> int | None:
    if distance < 1e-4:
        return None
    n = items_needed(differences, distance)
    return n if n > len(differences) else None


def _paired(new: Sequence[Row], old: Sequence[Row]) -> list[Row]:
    """The old rows in the order of the new ones. Raises ConfigError where the items are not the same."""
    by_id = {row.id: row for row in old}
    n_alike = sum(row.id in by_id for row in new)
    if not new or n_alike != len(new) or n_alike != len(old):
        raise ConfigError(
            f"the same items are needed: NEW holds {len(new)}, --against {len(old)}, {n_alike} in both",
            hint="a run that was interrupted goes on where it ended",
        )
    pairs = [(row, by_id[row.id]) for row in new]
    changed = next((a.id for a, b in pairs if (a.query, a.gold) != (b.query, b.gold)), None)
    if changed is not None:
        raise ConfigError(f"the same items are needed: item {changed} has another query or another gold answer")
    return [b for _, b in pairs]


def _other_ways(new: Sequence[Row], old: Sequence[Row], metric: Metric) -> list[str]:
    """What the two were asked differently. Their pairs, recorded strategies and seeds may differ."""
    ways = [_way(rows, metric, side) for side, rows in (("NEW", new), ("--against", old))]
    return [
        f"{name} {_told(ways[0][name])} | {_told(ways[1][name])}" for name in ways[0] if ways[0][name] != ways[1][name]
    ]


def _way(rows: Sequence[Row], metric: Metric, side: str) -> dict[str, Any]:
    """How the rows were asked, as far as it matters to the metric. Raises ConfigError for rows of several kinds."""
    found: dict[str, set[Any]] = {
        "model": {row.model for row in rows},
        "n": {len(row.candidates) for row in rows},
        "temperature": {row.temperature for row in rows},
        "forced strategy": {row.strategy if row.forced else None for row in rows},
        "answer kind": {row.candidates[0].answer_kind for row in rows},
    }
    mixed = [name for name, kinds in found.items() if len(kinds) > 1]
    if mixed:
        raise ConfigError(f"{side} holds rows of several kinds: {', '.join(mixed)}")
    ignored = {"model", "n", "temperature"} if metric.kind == "greedy" else {"model"}
    return {name: next(iter(kinds)) for name, kinds in found.items() if name not in ignored}


def _told(value: Any) -> str:
    return "none" if value is None else str(value)


def _side(rows: Sequence[Row], per_item: Sequence[float], metric: Metric) -> Side:
    row, n = rows[0], len(rows[0].candidates)
    return Side(
        model=row.model,
        strategy=row.strategy,
        is_forced=row.forced,
        pair_id=row.pair_id,
        n=n,
        temperature=row.temperature,
        seed=row.asked.get("seed"),
        value=estimate(per_item, metric, n),
    )
