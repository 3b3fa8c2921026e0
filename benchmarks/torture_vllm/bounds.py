"""What a count of failures says about the rate behind it, at 95%."""

from math import comb


def upper_bound(n_failures: int, n: int, confidence: float = 0.95) -> float:
    """Clopper-Pearson's one-sided bound: the largest rate at which so few failures still happen 1 time in 20.

    >>> round(upper_bound(0, 60), 3)   # the rule of three would say 3 / 60 = 0.05
    0.049
    """
    if not 0 <= n_failures <= n or n == 0:
        raise ValueError(f"{n_failures} failures of {n}")
    low, high = n_failures / n, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        at_most = sum(comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(n_failures + 1))
        low, high = (rate, high) if at_most > 1 - confidence else (low, rate)
    return high
