"""Is the smallest n that `its-proxy replay` advises on some items enough on others?

Items are split in halves again and again. On one half the advice is taken as a user would take it, on the other it is
judged against the vote of all candidates.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from benchmarks.cheaper_votes.replayed import replayed
from benchmarks.cheaper_votes.ways import served
from its_proxy.candidates import Row
from its_proxy.replay import sweep
from its_proxy.statistics import Estimate, paired_difference

N_SPLITS = 10
SIZES = (1, 2, 4, 8, 16, 32)
RULES = ("none", "exact", "beta")


@dataclass(frozen=True, slots=True)
class Held:
    """One split. `lost`: accuracy on the held-out half less that of all candidates there, paired; `saved`: tokens."""

    n: int
    rule: str
    lost: Estimate
    saved: float


@dataclass(frozen=True, slots=True)
class Advice:
    """What came of all splits: how often each n was advised, how often the held-out interval includes 0, the mean loss
    with its extremes, and the mean share of tokens saved."""

    n_splits: int
    n_items_each: int
    advised: dict[str, int]
    n_include_zero: int
    mean_lost: float
    worst_lost: float
    widest: float
    mean_saved: float


def check(rows: Sequence[Row], sizes: Sequence[int], n_splits: int = N_SPLITS) -> Advice:
    held = [_held(*_halves(rows, number), sizes) for number in range(n_splits)]
    return Advice(
        n_splits=n_splits,
        n_items_each=len(rows) // 2,
        advised=dict(Counter(f"n={one.n} {one.rule}" for one in held).most_common()),
        n_include_zero=sum(one.lost.low <= 0 <= one.lost.high for one in held),
        mean_lost=sum(one.lost.value for one in held) / n_splits,
        worst_lost=min(one.lost.value for one in held),
        widest=max(one.lost.high - one.lost.low for one in held),
        mean_saved=sum(one.saved for one in held) / n_splits,
    )


def _halves(rows: Sequence[Row], number: int) -> tuple[list[Row], list[Row]]:
    shuffled = Random(number).sample(rows, len(rows))
    middle = len(rows) // 2
    return shuffled[:middle], shuffled[middle : 2 * middle]


def _held(seen: Sequence[Row], unseen: Sequence[Row], sizes: Sequence[int]) -> Held:
    advised = next(setting for setting in sweep(seen, sizes, RULES) if setting.is_chosen)
    ways = served(advised.n, advised.rule), served(max(sizes), "none")
    own, full = ([replayed(way, row) for row in unseen] for way in ways)
    right, full_right = (
        [float(row.is_right(run.answer)) for row, run in zip(unseen, runs, strict=True)] for runs in (own, full)
    )
    saved = 1 - sum(run.n_tokens for run in own) / sum(run.n_tokens for run in full)
    return Held(advised.n, advised.rule, paired_difference(right, full_right), saved)
