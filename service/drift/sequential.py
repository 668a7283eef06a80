"""Sequential detectors of a higher rate or another class mix. They may alarm after any image.

Shiryaev–Roberts e-detectors (Shin, Ramdas and Rinaldo, "E-detectors", 2022): R ← (1 + R)·e, where
the e-value e is at least 0 and has a mean of at most 1 under the null. Then E[R] after t images is
at most t, and a mixture of such R is also an e-detector.

Images that come in runs are not independent. With a design effect D every e-value enters as
e^(1/D), and the threshold is D·A. If images that are D or more apart are independent, the
geometric mean of the D interleaved products is at most their arithmetic mean, each of which is an
e-detector of independent images; so P(an alarm within T images) ≤ T/A still holds.

The null is composite: every probability up to (or down to) a limit that the calibration supports.
An unlucky calibration set therefore does not cause alarms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.alarm import Alarm

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

CONFIDENCE = 0.95  # of the limits of a null
RATE_ODDS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)  # odds ratios, alternative / limit
MIX_ODDS_UP = (2.0, 4.0, 16.0)
MIX_ODDS_DOWN = (1 / 5,)
_CHUNK = 128  # images per array operation: 30^128 does not overflow
_STEP = 16  # images between two looks at a mix, which has many R
_FEW_CLASSES = 40  # so many are advanced together, image by image
_CONFIRMED = 20.0
_SMALLEST = 1e-9  # of a limit, because odds are computed


@dataclass(frozen=True, slots=True)
class Evidence:
    """A detector's state; an alarm begins when `statistic` reaches `threshold`."""

    statistic: float
    threshold: float
    alarm: bool


class _Detector:
    """A mixture of Bernoulli likelihood ratios, each with its own R."""

    r: Float64

    def __init__(self, run_length: float) -> None:
        self.alarm = Alarm()
        self._run_length = run_length
        self._design_effect = 1.0

    @property
    def evidence(self) -> Evidence:
        statistic = float(self.r.mean())
        return Evidence(statistic, self._threshold, self.alarm.on)

    @property
    def _threshold(self) -> float:
        return self._run_length * self._design_effect

    @property
    def _level(self) -> float:
        """The statistic that begins an alarm or, in an alarm, confirms it.

        Usual images reach the latter within `hold` images with a probability of at most 5 %.
        """
        again = _CONFIRMED * self.alarm.hold * self._design_effect
        return min(again, self._threshold) if self.alarm.on else self._threshold

    def _note(self, statistics: Float64, times: Float64) -> int:
        """Follow the statistic after each image, [n] each.

        Returns the place of the first image that begins or confirms an alarm, after which every R
        restarts at 0, or −1.
        """
        reached = np.flatnonzero(statistics >= self._level)
        place = int(reached[0]) if len(reached) else -1
        used = slice(0, place + 1 if len(reached) else len(statistics))
        self.alarm.follow(statistics[used] < math.sqrt(self._threshold), times[used])
        if len(reached):
            self.alarm.reach(float(times[place]))
        else:
            self.alarm.expire()
        return place


class RateDetector(_Detector):
    """Alarms if the share of images that are hits is above a limit."""

    def __init__(self, limit: float, run_length: float) -> None:
        super().__init__(run_length)
        self.r = np.zeros(len(RATE_ODDS))
        self.set_null(limit, 1.0)

    def set_null(self, limit: float, design_effect: float) -> None:
        """Set the highest usual rate and the design effect for the images to come."""
        odds = limit / (1 - limit) * np.array(RATE_ODDS)
        alternatives = odds / (1 + odds)
        self._design_effect = design_effect
        self.limit = limit
        self._hit = (alternatives / limit) ** (1 / design_effect)
        self._miss = ((1 - alternatives) / (1 - limit)) ** (1 / design_effect)

    def observe(self, hits: NDArray[np.bool_], times: Float64) -> None:
        """Add images, [n] each: whether it is a hit, and when it was answered (ascending)."""
        at = 0
        while at < len(hits):
            chunk = slice(at, at + _CHUNK)
            factors = np.where(hits[chunk, None], self._hit, self._miss)
            after = _run(self.r, factors)  # [images, hypotheses]
            place = self._note(after.mean(axis=1), times[chunk])
            self.r = np.zeros_like(self.r) if place >= 0 else after[-1].copy()
            at += place + 1 if place >= 0 else len(after)

    def delay(self, rate: float) -> float:
        """Return the expected number of images until an alarm at `rate`; inf if there is none."""
        growth = rate * np.log(self._hit) + (1 - rate) * np.log(self._miss)
        return _delay(float(growth.max()), len(RATE_ODDS) * self._threshold)


class MixDetector(_Detector):
    """Alarms if a class's share of the images is above its `upper` or below its `lower` limit."""

    def __init__(self, lower: Float64, upper: Float64, run_length: float) -> None:
        """`lower` and `upper` limit each class's share, [classes], strictly between 0 and 1."""
        super().__init__(run_length)
        self._odds = np.array([*MIX_ODDS_UP, *MIX_ODDS_DOWN])
        self.r = np.zeros((len(upper), len(self._odds)))
        self.set_null(lower, upper, 1.0)

    def set_null(self, lower: Float64, upper: Float64, design_effect: float) -> None:
        """Set the usual range of each class's share and the design effect for images to come."""
        limits = np.stack([upper] * len(MIX_ODDS_UP) + [lower] * len(MIX_ODDS_DOWN), axis=1)
        odds = limits / (1 - limits) * self._odds
        alternatives = odds / (1 + odds)
        self._design_effect = design_effect
        self.upper = upper
        self._hit = (alternatives / limits) ** (1 / design_effect)
        self._miss = ((1 - alternatives) / (1 - limits)) ** (1 / design_effect)
        self._by_length: dict[int, tuple[Float64, Float64]] = {}

    def observe(self, classes: Int64, times: Float64) -> None:
        """Add images, [n] each, by predicted class. An alarm is noticed once per 16 images."""
        few = len(self.r) <= _FEW_CLASSES
        at = 0
        while at < len(classes):
            # An alarm may end at any look, after which another level applies.
            chunk = slice(at, at + (_CHUNK if few and not self.alarm.on else _STEP))
            after = self._together(classes[chunk]) if few else self._apart(classes[chunk])
            place = self._note_looks(after, times[chunk])
            self.r = np.zeros_like(self.r) if place >= 0 else after[-1].copy()
            at += place + 1 if place >= 0 else len(times[chunk])

    def leading(self) -> Int64:
        """Return the classes with the most evidence, at most five."""
        best = self.r.max(axis=1)
        order = np.argsort(-best)[:5]
        return np.asarray(order[best[order] > best[order[0]] / 100])

    def _note_looks(self, after: Float64, times: Float64) -> int:
        """Note every R after each look, [looks, classes, odds]; the last one is at the last image.

        Returns the place of the image after which every R restarts at 0, or −1.
        """
        level, found = self._level, after.mean(axis=(1, 2))
        ends, lengths = _looks(len(times))
        if (found >= level).any():
            self.r = after[int(np.argmax(found >= level))]
            self.alarm.classes = tuple(self.leading().tolist())
        # Between two looks the evidence is not known; it may not begin an alarm.
        statistics = np.minimum(found, 0.99 * level).repeat(lengths)
        statistics[ends] = found
        return self._note(statistics, times)

    def _together(self, classes: Int64) -> Float64:
        """Return every R after each look, [looks, classes, odds]."""
        factors = np.repeat(self._miss[None], len(classes), axis=0)
        factors[np.arange(len(classes)), classes] = self._hit[classes]
        return _run(self.r, factors)[_looks(len(classes))[0]]

    def _apart(self, classes: Int64) -> Float64:
        """Return every R after one look, [1, classes, odds]; hits change only their own class."""
        n = len(classes)
        if n not in self._by_length:
            powers = np.cumprod(np.broadcast_to(self._miss, (n, *self._miss.shape)), axis=0)
            self._by_length[n] = (powers[-1].copy(), powers.sum(axis=0))  # at most 16 lengths
        power, started = self._by_length[n]
        hit, place = np.unique(classes, return_inverse=True)
        factors = np.repeat(self._miss[None, hit], n, axis=0)  # [images, hit classes, odds]
        factors[np.arange(n), place] = self._hit[classes]
        after = self.r * power + started
        after[hit] = _run(self.r[hit], factors)[-1]
        return after[None]

    def delay(self, class_id: int, share: float) -> float:
        """Return the expected number of images until an alarm if a class has this share."""
        hit, miss = np.log(self._hit[class_id]), np.log(self._miss[class_id])
        growth = float((share * hit + (1 - share) * miss).max())
        return _delay(growth, self.r.size * self._threshold)


@lru_cache(maxsize=_CHUNK)
def _looks(images: int) -> tuple[Int64, Int64]:
    """Return the places of images at which a mix is looked at, and the images from one to next."""
    ends = np.append(np.arange(_STEP - 1, images - 1, _STEP), images - 1)
    return ends, np.diff(ends, prepend=-1)


def _run(r: Float64, factors: Float64) -> Float64:
    """Return R after each image, [images, …]: R ← (1 + R)·e, written as products and sums."""
    product = np.cumprod(factors, axis=0)
    total = np.empty_like(product)
    total[0] = 1.0
    np.divide(1.0, product[:-1], out=total[1:])
    np.cumsum(total, axis=0, out=total)
    total += r
    total *= product
    return total


def _delay(growth: float, threshold: float) -> float:
    """Return when (1/growth)·exp(growth·t), the size of R after t images, reaches a threshold."""
    if growth <= 0:
        return math.inf
    return max(1.0, math.log(max(threshold * growth, 2.0)) / growth)


def rate_limit(alpha: float, calibration_samples: int) -> float:
    """Return an upper limit of the share of in-distribution images rejected at `alpha`.

    The share depends on the calibration set: for `n` exchangeable scores its distribution is
    Beta(k, n + 1 − k), k = ⌊alpha (n + 1)⌋ (Vovk 2012). The limit is its quantile at CONFIDENCE.
    """
    k = math.floor(round(alpha * (calibration_samples + 1), 9))
    return max(alpha, _beta_quantile(CONFIDENCE, k, calibration_samples + 1 - k))


def share_limits(counts: Int64) -> tuple[Float64, Float64]:
    """Return (lower, upper) limits, [classes] each, valid for all classes jointly at CONFIDENCE.

    `counts` are the predictions on the reference images. Clopper and Pearson's (1934) interval of
    each class, with a Bonferroni correction.
    """
    tail = (1 - CONFIDENCE) / (2 * len(counts))
    samples = int(counts.sum())
    known = {k: _limits(k, samples, tail) for k in set(counts.tolist())}
    limits = np.array([known[k] for k in counts.tolist()])
    return limits[:, 0], limits[:, 1]


def _limits(k: int, n: int, tail: float) -> tuple[float, float]:
    lower = _beta_quantile(tail, k, n - k + 1) if k > 0 else 0.0
    upper = _beta_quantile(1 - tail, k + 1, n - k) if k < n else 1.0
    # Inside (0, 1), because odds are computed. With a lower limit near 0, absence is no evidence.
    return max(lower, _SMALLEST), min(upper, 1 - _SMALLEST)


def _beta_quantile(level: float, a: int, b: int) -> float:
    """Return the quantile of Beta(a, b), by bisection: its CDF at x is P(Bin(a + b − 1, x) ≥ a)."""
    if a == 0:
        return 0.0
    n = a + b - 1
    k = np.arange(a)  # only P(Bin < a) is needed
    factorials = _log_factorials(n)
    choose = factorials[n] - factorials[k] - factorials[n - k]
    low, high = 0.0, 1.0
    for _ in range(60):
        x = (low + high) / 2
        terms = choose + k * math.log(x) + (n - k) * math.log1p(-x)
        below = float(np.exp(terms).sum())  # P(Bin < a)
        low, high = (low, x) if 1 - below >= level else (x, high)
    return (low + high) / 2


@lru_cache(maxsize=1)
def _log_factorials(n: int) -> Float64:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
