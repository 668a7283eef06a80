"""Estimates whether a sampled quantity grows. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCKS = 20
T_95 = 2.101  # two-sided 95 % quantile of Student's t with BLOCKS − 2 degrees of freedom


@dataclass(frozen=True)
class Trend:
    """A least-squares slope per hour, its standard error, and whether 0 is in its 95 % interval."""

    per_hour: float
    standard_error: float
    zero_inside: bool


def trend(at_s: Sequence[float], values: Sequence[float]) -> Trend | None:
    """Fit a line to the means of BLOCKS consecutive blocks; None for fewer than BLOCKS samples.

    Block means, because successive samples of memory are correlated: treated as independent they
    would give too small a standard error.
    """
    if len(values) < BLOCKS:
        return None
    if min(values) == max(values):  # rounding errors below would give a slope
        return Trend(0.0, 0.0, zero_inside=True)
    x = np.array([block.mean() for block in np.array_split(np.asarray(at_s), BLOCKS)]) / 3600
    y = np.array([block.mean() for block in np.array_split(np.asarray(values), BLOCKS)])
    x = x - x.mean()
    slope = float((x * y).sum() / (x * x).sum())
    residuals = y - y.mean() - slope * x
    variance = float((residuals**2).sum()) / (BLOCKS - 2)
    error = float(np.sqrt(variance / (x * x).sum()))
    return Trend(slope, error, abs(slope) <= T_95 * error)
