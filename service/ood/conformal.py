"""Conformal p-values: the share of calibration scores that are at least as unusual.

If a new input is exchangeable with the calibration set, P(p ≤ alpha) ≤ alpha for every alpha and
every sample size (Vovk et al. 2005; Bates et al. 2023 for the OOD test).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
TAIL_SHARE = 0.1  # of fold A, to which the tail is fitted
_LEAST_SCALE = 1e-9
_LEAST_LOG_P = -1e30  # of a finite score: the sum of a few is finite, also in float32


def marginal_p_values(n: int) -> Float64:
    """Return p by rank, [n + 1]: entry k applies if k of n calibration scores are ≥ the new one."""
    return (1 + np.arange(n + 1)) / (n + 1)


@dataclass(frozen=True, slots=True)
class TailedFold:
    """Fold A of one score: p-values by counting, continued beyond its upper part by a fitted tail.

    Counting gives every score beyond the largest the same p-value. The tail orders them, so that a
    combination of several scores still distinguishes them. It is not exact, and need not be:
    fold B calibrates the combination again. Only the log of p is used, as p itself underflows.
    """

    scores: Float64  # [n], ascending
    start: float  # a score from here on is in the tail
    log_p_at_start: float
    scale: float  # log p decreases by (score − start) / scale
    log_p_by_rank: Float64  # [n + 1]: entry k applies if k of the n scores are ≥ the new one

    @classmethod
    def of(cls, scores: Float64) -> TailedFold:
        """Fit an exponential tail to the upper tenth of `scores`, which are sorted ascending.

        Its scale is their mean excess, the maximum-likelihood estimate. If they are tied, it is
        the spread of all scores times a small number instead, so that it is never 0.
        """
        n = len(scores)
        log_p = np.log(marginal_p_values(n))
        start = float(scores[-max(1, math.ceil(TAIL_SHARE * n))])
        upper = scores[scores.searchsorted(start) :]
        least = _LEAST_SCALE * max(float(scores[-1] - scores[0]), abs(start), 1.0)
        scale = max(math.fsum((upper - start).tolist()) / len(upper), least)
        return cls(scores, start, float(log_p[len(upper)]), scale, log_p)

    @overload
    def log_p(self, score: float) -> float: ...
    @overload
    def log_p(self, score: NDArray[np.floating]) -> Float64: ...
    def log_p(self, score: float | NDArray[np.floating]) -> float | Float64:
        """Return the log of the p-value, for one score or an array of them.

        It decreases with the score. It is −inf for a score that is not finite.
        """
        if isinstance(score, np.ndarray):
            s = score.astype(np.float64)
            counted = self.log_p_by_rank[len(self.scores) - self.scores.searchsorted(s)]
            in_tail = self.log_p_at_start - (s - self.start) / self.scale
            in_tail = np.maximum(in_tail, _LEAST_LOG_P)
            return np.where(np.isfinite(s), np.where(s > self.start, in_tail, counted), -np.inf)
        if not math.isfinite(score):
            return -math.inf
        if score > self.start:
            return max(self.log_p_at_start - (score - self.start) / self.scale, _LEAST_LOG_P)
        return float(self.log_p_by_rank[len(self.scores) - bisect_left(self.scores, score)])


def sample_size_for(alpha: float, delta: float | None = None) -> int:
    """Return the smallest calibration set whose p-values can reach `alpha`.

    For a marginal guarantee n ≥ 1/alpha − 1. With `delta`, the guarantee holds with probability
    1 − delta over calibration sets: the share of scores above the largest of n is Beta(1, n), so
    (1 − alpha)ⁿ ≤ delta.
    """
    if delta is None:
        return math.ceil(round(1 / alpha - 1, 9))
    return math.ceil(round(math.log(delta) / math.log1p(-alpha), 9))
