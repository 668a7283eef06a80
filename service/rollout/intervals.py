"""Exact confidence intervals of a share, without scipy."""

from __future__ import annotations

import math

_TINY = 1e-300
_STEPS = 100_000  # of the continued fraction, which takes about the root of n


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Clopper and Pearson's (1934) interval of a share, `hits` of `n`; (0, 1) if n is 0."""
    tail = (1 - level) / 2
    lower = _quantile(tail, hits, n - hits + 1) if hits > 0 else 0.0
    upper = 1 - _quantile(tail, n - hits, hits + 1) if hits < n else 1.0
    return lower, upper


def _quantile(level: float, a: int, b: int) -> float:
    """Return the quantile of Beta(a, b), by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        x = (low + high) / 2
        low, high = (x, high) if beta_cdf(a, b, x) < level else (low, x)
    return (low + high) / 2


def beta_cdf(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b).

    Lentz's evaluation of the continued fraction of DLMF 8.17.22.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _STEPS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _not_zero(1 + term * d)
            c = _not_zero(1 + term / c)
            fraction *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return math.exp(log_front) * fraction / a


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
