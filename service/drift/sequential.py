"""Sequential detectors of a higher rate or another class mix. They may alarm after any image.

Shiryaev–Roberts e-detectors (Shin, Ramdas and Rinaldo, "E-detectors", 2022): R ← (1 + R)·e, where
the e-value e is at least 0 and has a mean of at most 1 under the null. Then E[R] after t images is
at most t, so the mean number of images until R ≥ A is at least A. A mixture of such R is also an
e-detector.

The null is composite: every probability up to (or down to) a limit that the calibration supports.
An unlucky calibration set therefore does not cause alarms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

CONFIDENCE = 0.95  # of the limits of a null
_RATE_ODDS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)  # odds ratios, alternative / limit
_MIX_ODDS = (2.0, 4.0)
_HOLD = 20.0  # each hypothesis's R is capped at this times A; an alarm ends below A / this


@dataclass(frozen=True, slots=True)
class Evidence:
    """A detector's state; `threshold` is a lower bound of its mean run length without drift."""

    statistic: float
    threshold: float
    alarm: bool


class _Detector:
    """A mixture of Bernoulli likelihood ratios, each with its own R."""

    def __init__(self, limits: Float64, alternatives: Float64, weights: Float64, run: float):
        self.r = np.zeros(len(limits))
        self.alarm = False
        self._run_length = run
        self._weights = weights / weights.sum()
        self._most = _HOLD * run / self._weights
        self._hit = alternatives / limits
        self._miss = (1 - alternatives) / (1 - limits)
        self._statistic = 0.0

    @property
    def evidence(self) -> Evidence:
        return Evidence(self._statistic, self._run_length, self.alarm)

    def restore(self, r: Float64, *, alarm: bool) -> None:
        """Restore the state of an earlier process."""
        self.r[:] = r
        self.alarm = alarm
        self._statistic = float(self._weights @ self.r)

    def _advance(self, hits: slice | NDArray[np.intp]) -> None:
        """Add one image: a hit for the hypotheses `hits`, a miss for the others."""
        before = self.r[hits]  # a copy, unless every hypothesis is hit
        hit = (1.0 + before) * self._hit[hits]
        self.r += 1.0
        self.r *= self._miss
        self.r[hits] = hit
        # The cap keeps the guarantee, since it only lowers R, and lets an alarm end. It applies to
        # each R separately: scaling all would let one lucky hypothesis lower the correct ones.
        np.minimum(self.r, self._most, out=self.r)
        self._statistic = statistic = float(self._weights @ self.r)
        if statistic >= self._run_length:
            self.alarm = True
        elif statistic < self._run_length / _HOLD:
            self.alarm = False


class RateDetector(_Detector):
    """Alarms if the share of images that are hits is above `limit`."""

    def __init__(self, limit: float, run_length: float) -> None:
        odds = limit / (1 - limit) * np.array(_RATE_ODDS)
        limits = np.full(len(odds), limit)
        super().__init__(limits, odds / (1 + odds), np.ones(len(odds)), run_length)

    def observe(self, *, hit: bool) -> None:
        """Add one image."""
        self._advance(slice(None) if hit else slice(0, 0))


class MixDetector(_Detector):
    """Alarms if a class's share of the images is above its `upper` or below its `lower` limit."""

    def __init__(self, lower: Float64, upper: Float64, run_length: float) -> None:
        """`lower` and `upper` limit each class's share, [classes], strictly between 0 and 1."""
        classes = len(upper)
        limits = [upper] * len(_MIX_ODDS) + [lower] * len(_MIX_ODDS)
        factors = [*_MIX_ODDS, *(1 / factor for factor in _MIX_ODDS)]
        odds = [f * limit / (1 - limit) for f, limit in zip(factors, limits, strict=True)]
        alternatives = np.concatenate([o / (1 + o) for o in odds])
        super().__init__(
            np.concatenate(limits), alternatives, np.ones(len(alternatives)), run_length
        )
        self._of_class = np.arange(classes)[:, None] + classes * np.arange(len(limits))

    def observe(self, class_id: int) -> None:
        """Add one image, by its predicted class."""
        self._advance(self._of_class[class_id])


def rate_limit(alpha: float, calibration_samples: int) -> float:
    """Return an upper limit of the share of in-distribution images rejected at `alpha`.

    The share depends on the calibration set: for `n` exchangeable scores its distribution is
    Beta(k, n + 1 − k), k = ⌊alpha (n + 1)⌋ (Vovk 2012). The limit is its quantile at CONFIDENCE.
    """
    k = math.floor(round(alpha * (calibration_samples + 1), 9))
    return max(alpha, _beta_quantile(CONFIDENCE, k, calibration_samples + 1 - k))


def share_limits(fractions: Sequence[float], samples: int) -> tuple[Float64, Float64]:
    """Return (lower, upper) limits, [classes] each, valid for all classes jointly at CONFIDENCE.

    Clopper and Pearson's (1934) interval of each class, with a Bonferroni correction.
    """
    tail = (1 - CONFIDENCE) / (2 * len(fractions))
    counts = [round(fraction * samples) for fraction in fractions]
    known = {k: _limits(k, samples, tail) for k in set(counts)}
    limits = np.array([known[k] for k in counts])
    return limits[:, 0], limits[:, 1]


def _limits(k: int, n: int, tail: float) -> tuple[float, float]:
    lower = _beta_quantile(tail, k, n - k + 1) if k > 0 else 0.0
    upper = _beta_quantile(1 - tail, k + 1, n - k) if k < n else 1.0
    # Inside (0, 1), because odds are computed. With a lower limit near 0, absence is no evidence.
    return max(lower, 1e-9), min(upper, 1 - 1e-9)


def _beta_quantile(level: float, a: int, b: int) -> float:
    """Return the quantile of Beta(a, b), by bisection: its CDF at x is P(Bin(a + b − 1, x) ≥ a)."""
    if a == 0:
        return 0.0
    n = a + b - 1
    k = np.arange(n + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    choose = factorials[n] - factorials[k] - factorials[n - k]
    low, high = 0.0, 1.0
    for _ in range(60):
        x = (low + high) / 2
        terms = choose + k * math.log(x) + (n - k) * math.log1p(-x)
        below = float(np.exp(terms[:a]).sum())  # P(Bin < a)
        low, high = (low, x) if 1 - below >= level else (x, high)
    return (low + high) / 2
