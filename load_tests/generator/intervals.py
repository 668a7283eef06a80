"""Ratios of paired windows, without and with something, and how sure they are. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from load_tests.generator.loops import Outcome

# Student's t for 95 %, of 2, 3 and so on pairs.
_T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
_Z_95 = 2.12  # of more pairs
_P99 = 0.99
_RESAMPLES = 1000

Latencies = NDArray[np.float64]  # in seconds, of the answered requests of a window


@dataclass(frozen=True)
class Interval:
    """A ratio and its 95 % interval, which one pair does not have."""

    ratio: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> "Interval":
        """Return the mean of the logarithms of the pairs' ratios, as a ratio."""
        logs = [math.log(b / a) for a, b in pairs]
        mean = fmean(logs)
        if len(logs) == 1:
            return cls(math.exp(mean))
        t = _T_95[len(logs) - 2] if len(logs) < len(_T_95) + 2 else _Z_95
        half = t * stdev(logs) / math.sqrt(len(logs))
        return cls(math.exp(mean), math.exp(mean - half), math.exp(mean + half))

    @classmethod
    def of_p99(cls, pairs: Sequence[tuple[Latencies, Latencies]]) -> "Interval":
        """Return the ratio of the p99 over all pairs; the interval is of resampled pairs."""
        whole = _ratio_of_p99(pairs)
        if len(pairs) == 1:
            return cls(whole)
        draw = np.random.default_rng(0).integers(len(pairs), size=(_RESAMPLES, len(pairs)))
        resampled = [_ratio_of_p99([pairs[index] for index in drawn]) for drawn in draw]
        low, high = np.quantile(resampled, (0.025, 0.975))
        return cls(whole, float(low), float(high))


def latencies(outcomes: Sequence[Outcome]) -> Latencies:
    """Return those of the answered requests."""
    return np.array([outcome.latency_s for outcome in outcomes if outcome.answered])


def _ratio_of_p99(pairs: Sequence[tuple[Latencies, Latencies]]) -> float:
    without, with_it = (np.concatenate([pair[arm] for pair in pairs]) for arm in (0, 1))
    return _p99_s(with_it) / _p99_s(without)


def _p99_s(of: Latencies) -> float:
    return float(np.quantile(of, _P99, method="inverted_cdf"))
