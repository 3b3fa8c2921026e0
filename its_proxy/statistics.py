"""Numbers with their 95% intervals, seeded and in plain Python.

    >>> wilson(8, 10)
    Estimate(value=0.8, low=0.490..., high=0.943...)

An item is the unit of chance: candidates of one item are not independent, so the resampled intervals
draw whole items. They say nothing about other training seeds.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import ceil, comb, fsum, sqrt
from random import Random
from statistics import NormalDist
from typing import NamedTuple

Z95 = 1.959963984540054
N_RESAMPLES = 2000


class Estimate(NamedTuple):
    """A value and its 95% interval; printed in percent."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson(n_right: int, n: int) -> Estimate:
    """A proportion with Wilson's interval, which stays honest near 0 and 1 and for few items."""
    if not 0 <= n_right <= n or n == 0:
        raise ValueError(f"{n_right} of {n} is no proportion")
    share, spread = n_right / n, Z95 * Z95 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 * sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # At 0 and at n the formula meets the end exactly, but for rounding.
    return Estimate(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def clustered_interval(values_per_item: Sequence[float], *, seed: int = 0) -> Estimate:
    """The mean of one value an item (itself a mean over candidates), by the percentile bootstrap.

    With a single distinct value the interval has no width: the sample holds no sign of another value.
    """
    n = len(values_per_item)
    if n == 0:
        raise ValueError("no items")
    random = Random(seed)
    means = sorted(fsum(random.choices(values_per_item, k=n)) / n for _ in range(N_RESAMPLES))
    low, high = means[int(0.025 * N_RESAMPLES)], means[ceil(0.975 * N_RESAMPLES) - 1]
    return Estimate(fsum(values_per_item) / n, low, high)


def paired_difference(a_per_item: Sequence[float], b_per_item: Sequence[float], *, seed: int = 0) -> Estimate:
    """Mean of a minus mean of b over the same items, resampling the items of both together."""
    differences = [a - b for a, b in zip(a_per_item, b_per_item, strict=True)]
    return clustered_interval(differences, seed=seed)


def pass_at_k(n: int, n_right: int, k: int) -> float:
    """The chance that k of n candidates, drawn without replacement, hold a right one."""
    if not 0 < k <= n or not 0 <= n_right <= n:
        raise ValueError(f"pass@{k} of {n_right} right among {n} is not defined")
    return 1 - comb(n - n_right, k) / comb(n, k)


def score_interval(differences: Sequence[float]) -> Estimate:
    """The mean of paired differences in [-1, 1] with its score interval, which holds for few items, too.

    A mean m is inside when (observed - m) / sqrt(variance / n) stays within 1.96, the variance being that of the
    likeliest distribution with mean m over the values seen and the two extremes, -1 and +1 (Owen's empirical
    likelihood). For right and wrong answers this is Tango's interval (1998). Unlike a bootstrap it knows that 30
    equal items do not prove equality: what was not seen may still happen.
    """
    n = len(differences)
    if n == 0 or not all(-1 <= difference <= 1 for difference in differences):
        raise ValueError("differences between -1 and 1 are needed")
    observed = fsum(differences) / n
    counts = Counter(differences)

    def is_inside(mean: float) -> bool:
        return (observed - mean) ** 2 * n <= Z95**2 * _variance_at(mean, counts, n)

    return Estimate(observed, _edge(is_inside, observed, -1.0), _edge(is_inside, observed, 1.0))


def _edge(is_inside: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where the interval ends between the two, to a thousandth of a percent point."""
    if is_inside(outside):
        return outside
    while abs(outside - inside) > 1e-5:
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if is_inside(middle) else (inside, middle)
    return outside


def _variance_at(mean: float, counts: Mapping[float, int], n: int) -> float:
    """The variance of the likeliest distribution with this mean, over the values counted, -1 and +1.

    Its weights are count / (n (1 + slope (value - mean))), the slope being the one at which they average to the
    mean. Where no slope does that, an extreme that was never seen takes up the rest.
    """
    if abs(mean) >= 1:
        return 0.0
    # Beyond these slopes an unseen extreme would have a negative weight.
    low, high = -1 / (1 - mean), 1 / (1 + mean)

    def excess(slope: float) -> float:
        return fsum(c * (v - mean) / (1 + slope * (v - mean)) for v, c in counts.items() if 1 + slope * (v - mean) > 0)

    for _ in range(45):
        slope = (low + high) / 2
        low, high = (slope, high) if excess(slope) > 0 else (low, slope)
    slope = (low + high) / 2
    weights = {v: c / (n * (1 + slope * (v - mean))) for v, c in counts.items()}
    rest = max(0.0, 1 - fsum(weights.values()))
    extreme = -1.0 if slope > 0 else 1.0
    weights[extreme] = weights.get(extreme, 0.0) + rest
    return fsum(weight * (v - mean) ** 2 for v, weight in weights.items())


def items_needed(differences: Sequence[float], distance: float, power: float = 0.8) -> int:
    """How many items tell a mean from a limit that lies `distance` away, as often as `power` says.

    The variance is that of the differences seen and one more of each extreme, so that it is never 0.
    """
    n = len(differences)
    variance = (fsum(d * d for d in differences) + 2) / (n + 2) - (fsum(differences) / (n + 2)) ** 2
    return ceil(variance * ((Z95 + NormalDist().inv_cdf(power)) / distance) ** 2)
