"""How fast a cost grows: the exponent k of cost ~ size^k, read off where the sizes are largest."""

from collections.abc import Sequence
from math import log

CONSTANT, LINEAR = 0.1, 1.1


def exponent(sizes: Sequence[float], costs: Sequence[float | None]) -> float | None:
    """Between the largest size and the nearest one that is at most a tenth of it, or else the first.

    A cost of a + b*size looks constant at first and linear in the end; the end is what counts.
    """
    points = [(size, cost) for size, cost in zip(sizes, costs, strict=True) if cost is not None]
    if len(points) < 2:
        return None
    last_size, last_cost = points[-1]
    size, cost = next((point for point in reversed(points) if 10 * point[0] <= last_size), points[0])
    return log(last_cost / cost) / log(last_size / size)


def said(k: float | None) -> str:
    if k is None:
        return "one size only"
    if abs(k) < CONSTANT:
        return "constant"
    if k <= LINEAR:
        return "linear" if k > 0.9 else "less than linear"
    return "more than linear"
