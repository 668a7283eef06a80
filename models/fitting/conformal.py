"""Scores of held-out images to the gate: sorted fold A, fold B per class or shared, p-values."""

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

# Of the calibration images: the first share chooses the energy temperature, then folds A and B.
FOLD_SHARE = 0.4
PARTS = {"selection": 1 - 2 * FOLD_SHARE, "fold_a": FOLD_SHARE, "fold_b": FOLD_SHARE}
# A class gets a fold of its own when twice the least it needs were seen in fold A: fold B, which
# must not decide it, then has enough but for bad luck, and a threshold rests on two images.
_OWN_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class Scores:
    """Both raw scores of some images and the classes predicted for them, all [n]."""

    energy: Float64
    mahalanobis: Float64
    predicted: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GateTarget:
    """What the gate is to target: the alphas, and with `delta` a PAC guarantee."""

    alpha_reject: float = 0.01
    alpha_review: float = 0.05
    delta: float | None = None

    @property
    def least_images(self) -> int:
        """Return the smallest fold B that can reject at all."""
        return sample_size_for(self.alpha_reject, self.delta)


def calibrate(fold_a: Scores, fold_b: Scores, classes: int, target: GateTarget) -> Gate:
    """Return the gate; neither fold may have been fitted on.

    Raises BuildRefused, with the number needed, when the folds cannot support the alphas.
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
            f"Images of fold B lie beyond all of fold A, so no input could get a p-value below "
            f"{gate.smallest_p_value:.3g}: alpha_reject {target.alpha_reject:g} would never "
            "reject. Calibrate on more images, or choose a larger alpha."
        )
    return gate


def combine(energy_a: Float64, mahalanobis_a: Float64, scores: Scores) -> Float64:
    """Return the combined score of every image, higher = more unusual, [n]."""
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
    """Return calibration.npz: the folds, and arrays that drift will be measured against."""
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
    """Return p by rank, [n + 1], that holds for this calibration set with chance 1 − `delta`.

    Rejecting all that at most k of n calibration scores reach refuses a Beta(k + 1, n − k) share of
    new inputs; entry k is that share's 1 − delta quantile (Vovk 2012, prop. 2a). Its promise is
    for one alpha chosen beforehand.
    """
    rank = np.arange(n)
    return np.append(betaincinv(rank + 1, n - rank, 1 - delta), 1.0)


def check_sizes(fold_a: int, fold_b: int, target: GateTarget) -> None:
    """Raise BuildRefused, with the number needed, for folds too small for the alphas."""
    need = target.least_images
    if min(fold_a, fold_b) < need:
        raise BuildRefused(
            f"alpha_reject {target.alpha_reject:g}"
            + (f" with delta {target.delta:g}" if target.delta is not None else "")
            + f" needs {need} images in each calibration fold; there are {fold_a} and {fold_b}. "
            f"Give {math.ceil(need / FOLD_SHARE) + 1} calibration images in all, or a larger alpha."
        )


def _own_classes(
    fold_a: Scores, fold_b: Scores, combined: Float64, classes: int, target: GateTarget
) -> list[int]:
    """Return the classes that get a fold of their own, ascending.

    Fold A decides; fold B only where it must: a class that has too few of it shares, or whose fold
    could not reject, and so do the smallest of the others until those that share can reject.
    """
    # Images beyond all of fold A: they tie with the worst input that there is.
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
