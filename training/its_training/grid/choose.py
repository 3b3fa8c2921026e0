"""Recommends an arm and a way to serve it, or none, from the validation split alone.

The null hypothesis is `none -> none`: plain rows, plain queries. Every pair that the pair rule allows is compared with
it at equal tokens, over the same items and training seeds. As the best of many differences is flattered by chance,
the bounds hold for all of them at once (the largest standardised deviation of the joint bootstrap).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from its_proxy.codesign.errors import ConfigError
from its_proxy.statistics import Estimate
from its_training.grid.cells import BASE, Grid
from its_training.grid.equal_tokens import Way, cost, majority_of, n_affordable
from its_training.grid.hierarchy import FEWEST_TRAIN_SEEDS, THIS_CHECKPOINT_ONLY, resampled
from its_training.grid.values import Values, difference, values

if TYPE_CHECKING:
    from numpy import ndarray

NULL = Way("none", "none")
CONTROLS = frozenset({"filler", "fixed", "shuffled"})
LEAST_GAIN = 0.01
"""A gain below a point is not worth a persona: where all are shown to be smaller, the answer is none."""

Verdict: TypeAlias = Literal["recommended", "none", "undecided"]


@dataclass(frozen=True, slots=True)
class Contender:
    """A pair against the null: `gain` with simultaneous 95% bounds, at `n` candidates of equal cost."""

    way: Way
    n: float
    gain: Estimate


@dataclass(frozen=True, slots=True)
class Choice:
    """`way` is what to train and serve; the null itself unless the verdict is `recommended`."""

    verdict: Verdict
    way: Way
    sentence: str
    contenders: Sequence[Contender]
    n_items: int
    n_train_seeds: int
    note: str


def recommend(grid: Grid, split: str = "validation") -> Choice:
    """Raises ConfigError for the test split: what is chosen on it is no longer tested by it."""
    if split != "validation":
        raise ConfigError(
            f"the {split} split does not choose", hint="choose on validation, then report the choice on test"
        )
    ways = [way for way in _ways(grid) if values(grid, way.trained, way.asked, split, majority_of(1)) is not None]
    if NULL not in ways:
        raise ConfigError("the grid holds no `none` asked as none on validation", hint="it is the null hypothesis")
    rivals = [way for way in ways if way != NULL]
    if not rivals:
        raise ConfigError("the grid holds no pair with personas on validation", hint="measure some")
    budget = cost(grid, NULL, split, grid.spec.vote.n)
    counts = {way: n_affordable(grid, way, split, budget) for way in ways}
    gains = {way: _gain(grid, way, split, counts) for way in rivals}
    contenders = [Contender(way, counts[way], gain) for way, gain in _bounded(gains).items()]
    return _verdict(sorted(contenders, key=lambda one: -one.gain.value), next(iter(gains.values())))


def _ways(grid: Grid) -> list[Way]:
    """Every pair that may be served: the same family on both sides, or `mixed` plain."""
    spec, found = grid.spec, []
    for cell in grid.cells:
        if cell.trained == BASE:
            continue
        if cell.asked not in spec.one_sided(cell.trained) or spec.arms[cell.trained].strategy == "mixed":
            found.append(Way(cell.trained, cell.asked))
    return list(dict.fromkeys(found))


def _gain(grid: Grid, way: Way, split: str, counts: dict[Way, float]) -> Values:
    first = values(grid, way.trained, way.asked, split, majority_of(counts[way]))
    null = values(grid, NULL.trained, NULL.asked, split, majority_of(counts[NULL]))
    assert first is not None  # `recommend` asks only ways that were measured
    assert null is not None
    return difference(first, null)


def _bounded(gains: dict[Way, Values]) -> dict[Way, Estimate]:
    """Each mean with bounds that hold for all of them at once with 95%."""
    import numpy

    draws: dict[Way, ndarray] = {way: resampled(gain) for way, gain in gains.items()}
    spreads = {way: max(float(one.std()), 1e-9) for way, one in draws.items()}
    widest = numpy.max([abs(draws[way] - gains[way].mean) / spreads[way] for way in gains], axis=0)
    reach = float(numpy.quantile(widest, 0.95))
    return {
        way: Estimate(gain.mean, gain.mean - reach * spreads[way], gain.mean + reach * spreads[way])
        for way, gain in gains.items()
    }


def _verdict(contenders: Sequence[Contender], any_gain: Values) -> Choice:
    best = contenders[0]
    n_seeds, n_items = len(any_gain.train_seeds), len(any_gain.ids)
    note = "" if n_seeds >= FEWEST_TRAIN_SEEDS else THIS_CHECKPOINT_ONLY
    said = f"the best of {len(contenders)} pairs, {best.way}, gains {best.gain} points over {NULL} at equal tokens"
    if best.gain.low > 0:
        control = " (a control: any text there may do as well)" if best.way.trained in CONTROLS else ""
        return Choice("recommended", best.way, f"train {best.way.trained}, serve as {best.way.asked}{control}: {said}",
                      contenders, n_items, n_seeds, note)  # fmt: skip
    if max(one.gain.high for one in contenders) < LEAST_GAIN:
        return Choice("none", NULL, f"none: no evidence for personas on this base; {said}",
                      contenders, n_items, n_seeds, note)  # fmt: skip
    return Choice("undecided", NULL, f"undecided, so plain rows and plain queries, the cheapest; {said}",
                  contenders, n_items, n_seeds, note)  # fmt: skip
