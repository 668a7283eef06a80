"""Which shares of in-distribution images a gate may flag, given how few it was calibrated on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from tidegate.models.data.rows import Float64
from tidegate.service.ood.gates import FinalFold, Gate

_TAIL = 0.025  # on each side


@dataclass(frozen=True, slots=True)
class Range:
    """The 95 % range of a share."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ExpectedShares:
    """The ranges of the shares that are flagged if nothing but chance decides."""

    rejected: Range
    reviewed: Range
    flagged: Range  # either

    @classmethod
    def of(cls, gate: Gate, predicted: NDArray[np.int64]) -> ExpectedShares:
        """Return the ranges for `gate` on images of the classes `predicted`, [m]."""
        reject, review = gate.alpha_reject, gate.alpha_review
        return cls(
            rejected=expected_share(gate, predicted, 0.0, reject),
            reviewed=expected_share(gate, predicted, reject, review),
            flagged=expected_share(gate, predicted, 0.0, review),
        )


def expected_share(gate: Gate, predicted: NDArray[np.int64], above: float, up_to: float) -> Range:
    """Return the 95 % range of the share of images with `above` < p ≤ `up_to`.

    The images, of the classes `predicted` [m], are taken to be like those of fold B, independent
    and from the same distribution. Both samples vary: k of a fold's n + 1 ranks have such a p, so
    its calibration flags Beta(k, n + 1 − k) of all images (Vovk 2012), and a beta-binomial number
    of m images. This is wider than an interval of the measured share, which is of one calibration.
    """
    mass = np.ones(1)
    for fold, images in _folds(gate, predicted):
        mass = np.convolve(mass, _mass(fold, images, above, up_to))
    low, high = np.searchsorted(np.cumsum(mass), (_TAIL, 1 - _TAIL)) / max(len(predicted), 1)
    return Range(float(low), float(high))


def _folds(gate: Gate, predicted: NDArray[np.int64]) -> Iterator[tuple[FinalFold, int]]:
    """Yield each fold B with the number of images that are compared with it."""
    own = {c: int((predicted == c).sum()) for c in gate.own_folds_b}
    yield gate.fold_b, len(predicted) - sum(own.values())
    for c, images in own.items():
        yield gate.own_folds_b[c], images


def _mass(fold: FinalFold, images: int, above: float, up_to: float) -> Float64:
    """Return the probability of each number of flagged images, [images + 1]."""
    p, number = fold.p_by_rank, np.arange(images + 1)
    k, ranks = int(((p > above) & (p <= up_to)).sum()), len(p)
    if k in (0, ranks):
        return np.asarray(number == (images if k else 0), np.float64)
    return np.asarray(betabinom.pmf(number, images, k, ranks - k))
