"""Numbers with their 95% intervals, seeded and in plain Python.

    >>> wilson(8, 10)
    Estimate(value=0.8, low=0.490..., high=0.943...)

An item is the unit of chance: candidates of one item are not independent, so the resampled intervals
draw whole items. They say nothing about other training seeds.
"""

from collections.abc import Sequence
from math import ceil, comb, fsum, sqrt
from random import Random
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
