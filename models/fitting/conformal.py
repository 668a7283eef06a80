"""Calibrate the gate on held-out scores: sorted fold A, shared or per-class fold B, p-values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from tidegate.models.data.rows import Float64
from tidegate.models.errors import BuildRefused
from tidegate.models.sealing.npz import npz
from tidegate.service.ood.conformal import marginal_p_values, p_value, sample_size_for
from tidegate.service.ood.gates import FinalFold, Gate

# Shares of the calibration images: choice of the energy temperature, then folds A and B.
FOLD_SHARE = 0.4
PARTS = {"selection": 1 - 2 * FOLD_SHARE, "fold_a": FOLD_SHARE, "fold_b": FOLD_SHARE}
# A class gets its own fold B if fold A has twice the images that it needs. Fold B must not decide
# this; with this margin it almost always has enough images, and a threshold rests on two of them.
_OWN_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class Scores:
    """Both raw scores and the predicted classes of some images, all [n]."""

    energy: Float64
    mahalanobis: Float64
    predicted: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GateTarget:
    """The gate's target: the alphas, and a PAC guarantee if `delta` is given."""

    alpha_reject: float = 0.01
    alpha_review: float = 0.05
    delta: float | None = None

    @property
    def least_images(self) -> int:
        """Return the size of the smallest fold B that can reject."""
        return sample_size_for(self.alpha_reject, self.delta)


def calibrate(fold_a: Scores, fold_b: Scores, classes: int, target: GateTarget) -> Gate:
    """Return the gate. Nothing may have been fitted on either fold.

    Raises BuildRefused with the required number of images if the folds are too small.
    """
    check_sizes(len(fold_a.energy), len(fold_b.energy), target)
    energy_a, mahalanobis_a = np.sort(fold_a.energy), np.sort(fold_a.mahalanobis)
    combined = combine(energy_a, mahalanobis_a, fold_b)
    own = _own_classes(fold_a, fold_b, combined, classes, target)
    shared = ~np.isin(fold_b.predicted, own)
    gate = Gate(
        energy_a=energy_a,
        mahalanobis_a=mahalanobis_a,
        fold_b=_final(combined[shared], target),
        own_folds_b={c: _final(combined[fold_b.predicted == c], target) for c in own},
        alpha_reject=target.alpha_reject,
        alpha_review=target.alpha_review,
    )
    if gate.smallest_p_value > target.alpha_reject:
        raise BuildRefused(
            f"Some images of fold B score above all of fold A, so the smallest possible p-value is "
            f"{gate.smallest_p_value:.3g}, and alpha_reject {target.alpha_reject:g} would never "
            "reject. Calibrate on more images, or choose a larger alpha."
        )
    return gate


def combine(energy_a: Float64, mahalanobis_a: Float64, scores: Scores) -> Float64:
    """Return the combined score of every image, [n]; higher is more unusual."""
    return -np.minimum(p_value(energy_a, scores.energy), p_value(mahalanobis_a, scores.mahalanobis))


def final_p_values(gate: Gate, combined: Float64, predicted: NDArray[np.int64]) -> Float64:
    """Return the final p-value of every image, [n]: `Gate.judge` for arrays."""
    p = np.empty(len(combined))
    for c in [-1, *gate.own_folds_b]:
        fold = gate.own_folds_b.get(c, gate.fold_b)
        rows = predicted == c if c >= 0 else ~np.isin(predicted, [*gate.own_folds_b])
        p[rows] = fold.p_by_rank[len(fold.combined) - fold.combined.searchsorted(combined[rows])]
    return p


def gate_file(gate: Gate, target: GateTarget, **reference: NDArray[np.float64]) -> bytes:
    """Return calibration.npz: the folds, and the arrays of the drift reference."""
    folds = [gate.fold_b, *gate.own_folds_b.values()]
    arrays: dict[str, NDArray[np.generic]] = {
        "energy_a": gate.energy_a,
        "mahalanobis_a": gate.mahalanobis_a,
        "combined_b": np.concatenate([fold.combined for fold in folds]),
        **reference,
    }
    if gate.own_folds_b:
        arrays["fold_b_sizes"] = np.array([len(fold.combined) for fold in folds], np.int64)
    if target.delta is not None:
        arrays["p_by_rank_b"] = np.concatenate([fold.p_by_rank for fold in folds])
    return npz(arrays)


def pac_p_values(n: int, delta: float) -> Float64:
    """Return p by rank, [n + 1], valid for this calibration set with probability 1 − `delta`.

    Rejecting inputs whose score at most k of n calibration scores reach rejects a share of new
    inputs distributed as Beta(k + 1, n − k); entry k is its 1 − delta quantile (Vovk 2012,
    prop. 2a). The guarantee is for one alpha chosen beforehand. The quantiles are rounded up to 17
    bits, so that the last bits of a library's incomplete beta function do not matter.
    """
    rank = np.arange(n)
    mantissa, exponent = np.frexp(betaincinv(rank + 1, n - rank, 1 - delta))
    return np.append(np.ldexp(np.ceil(np.ldexp(mantissa, 17)), exponent - 17), 1.0)


def check_sizes(fold_a: int, fold_b: int, target: GateTarget) -> None:
    """Raise BuildRefused with the required number if the folds are too small for the alphas."""
    need = target.least_images
    if min(fold_a, fold_b) < need:
        raise BuildRefused(
            f"alpha_reject {target.alpha_reject:g}"
            + (f" with delta {target.delta:g}" if target.delta is not None else "")
            + f" needs {need} images in each calibration fold; there are {fold_a} and {fold_b}. "
            f"Give {math.ceil(need / FOLD_SHARE) + 1} calibration images in total, or a larger "
            "alpha."
        )


def _own_classes(
    fold_a: Scores, fold_b: Scores, combined: Float64, classes: int, target: GateTarget
) -> list[int]:
    """Return the classes that get their own fold B, ascending; the others share one.

    Fold A decides, with two exceptions for fold B. A class shares if its fold B is too small or
    could not reject. Then the smallest classes share until the shared fold can reject.
    """
    # Images that score above all of fold A, and so tie with the most unusual possible input.
    beyond = combined >= -1 / (len(fold_a.energy) + 1)
    in_a = np.bincount(fold_a.predicted, minlength=classes)
    in_b = np.bincount(fold_b.predicted, minlength=classes)
    ties = np.bincount(fold_b.predicted[beyond], minlength=classes)

    def can_reject(group: list[int]) -> bool:
        n = int(in_b[group].sum())
        return bool(_table(n, target)[int(ties[group].sum())] <= target.alpha_reject)

    enough = np.flatnonzero(in_a >= _OWN_FACTOR * target.least_images).tolist()
    own = sorted((c for c in enough if can_reject([c])), key=lambda c: (in_b[c], c))
    sharing = [c for c in range(classes) if c not in own]
    while own and sharing and not can_reject(sharing):
        sharing.append(own.pop(0))
    return sorted(own)


def _table(n: int, target: GateTarget) -> Float64:
    return marginal_p_values(n) if target.delta is None else pac_p_values(n, target.delta)


def _final(combined: Float64, target: GateTarget) -> FinalFold:
    return FinalFold(np.sort(combined), _table(len(combined), target))
