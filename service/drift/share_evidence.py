"""How improbable the counts of some hours are, if the shares have not changed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
MAX_SWING = 0.5  # of a share within a day or a week; more than that is not ordinary


@dataclass(frozen=True, slots=True)
class Baseline:
    """A sample that the last hours are compared with."""

    counts: Float64  # [columns]
    images: float
    days: int = 0  # from which it was learned; 0 for a sample of independent images


def moved_columns(shares: Float64, before: Float64, evidence: Float64, least: float = 1.0) -> Int64:
    """Return the columns whose share changed much and evidently, the most evident first."""
    large = (shares > (1 + MAX_SWING) * before) | (shares < (1 - MAX_SWING) * before)
    moved = np.flatnonzero(large & (evidence >= least))
    return moved[np.argsort(-evidence[moved])]


def share_evidence(
    counts: Float64, images: Float64 | float, against: Baseline, divisor: Float64 | float = 1.0
) -> Float64:
    """Return −ln P of counts as extreme as these if the shares are equal, at least, [columns].

    The baseline is divided by `divisor`. Given the sum T of both counts, one of them, o, is
    binomial, for shares that are small, and hypergeometric otherwise, which is less variable. P(o)
    is at most exp(−H)·√(T/(2π·o·(T − o))), where H is Hoeffding's (1963) exponent, and each further
    term is at most r times the one before. exp(−H) alone is a bound, too; the rules of Prometheus
    use it.
    """
    other, samples = against.counts / divisor, against.images / divisor
    pooled = counts + other
    share = (images + samples) / np.maximum(pooled, 1e-9)
    exponent = counts * np.log(np.maximum(counts, 1e-9) * share / images)
    exponent += other * np.log(np.maximum(other, 1e-9) * share / samples)
    odds = images / samples
    r = np.where(counts > other * odds, other * odds / (counts + 1), counts / odds / (other + 1))
    sharper = 0.5 * np.log(np.maximum(2 * math.pi * counts * other / pooled.clip(1e-9), 1e-9))
    sharper += np.log1p(-np.minimum(r, 1 - 1e-9))
    return np.asarray(exponent + np.maximum(sharper, 0.0))
