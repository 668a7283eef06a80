"""Conformal p-values: the share of calibration scores that are at least as unusual.

If a new input is exchangeable with the calibration set, P(p ≤ alpha) ≤ alpha for every alpha and
every sample size (Vovk et al. 2005; Bates et al. 2023 for the OOD test).
"""

from __future__ import annotations

import math
from typing import overload

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@overload
def p_value(calibration: Float64, score: float) -> float: ...
@overload
def p_value(calibration: Float64, score: NDArray[np.floating]) -> Float64: ...
def p_value(calibration: Float64, score: float | NDArray[np.floating]) -> float | Float64:
    """Return (1 + #{calibration ≥ score}) / (n + 1), for one score or an array of them.

    `calibration` is sorted ascending. A NaN counts as more unusual than any score.
    """
    n = len(calibration)
    return (1 + n - calibration.searchsorted(score)) / (n + 1)


def marginal_p_values(n: int) -> Float64:
    """Return p by rank, [n + 1]: entry k applies if k of n calibration scores are ≥ the new one."""
    return (1 + np.arange(n + 1)) / (n + 1)


def combined_score(energy_p: float, mahalanobis_p: float) -> float:
    """Combine two p-values into one score, higher = more unusual; fold B calibrates it again."""
    return -min(energy_p, mahalanobis_p)


def sample_size_for(alpha: float, delta: float | None = None) -> int:
    """Return the smallest calibration set whose p-values can reach `alpha`.

    For a marginal guarantee n ≥ 1/alpha − 1. With `delta`, the guarantee holds with probability
    1 − delta over calibration sets: the share of scores above the largest of n is Beta(1, n), so
    (1 − alpha)ⁿ ≤ delta.
    """
    if delta is None:
        return math.ceil(round(1 / alpha - 1, 9))
    return math.ceil(round(math.log(delta) / math.log1p(-alpha), 9))
