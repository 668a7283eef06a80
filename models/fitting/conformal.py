"""Calibrate the gate on held-out scores: sorted fold A, shared or per-class fold B, p-values."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from tidegate.models.data.rows import Float64
from tidegate.models.errors import BuildRefused
from tidegate.models.sealing.npz import npz
from tidegate.service.ood.conformal import TailedFold, marginal_p_values, sample_size_for
from tidegate.service.ood.gates import FinalFold, Gate, combined_score

# Shares of the calibration images: choice of the scores, then folds A and B.
FOLD_SHARE = 0.4
PARTS = {"selection": 1 - 2 * FOLD_SHARE, "fold_a": FOLD_SHARE, "fold_b": FOLD_SHARE}
# A class gets its own fold B if fold A has twice the images that it needs. Fold B must not decide
# this; with this margin it almost always has enough images, and a threshold rests on two of them.
_OWN_FACTOR = 2.0
Combination = tuple[str, ...]  # the scores that decide


@dataclass(frozen=True, slots=True)
class Scores:
    """The raw scores and the predicted classes of some images, all [n]."""

    values: Mapping[str, Float64]  # score → its values
    predicted: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.predicted)

    def part(self, rows: slice | NDArray[np.int64]) -> Scores:
        """Return some of the images."""
        values = {name: value[rows] for name, value in self.values.items()}
        return Scores(values, self.predicted[rows])


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


def calibrate(
    fold_a: Scores,
    fold_b: Scores,
    classes: int,
    target: GateTarget,
    combination: Combination,
) -> Gate:
    """Return the gate in which the scores of `combination` decide.

    Nothing may have been fitted or chosen on either fold. Raises BuildRefused with the required
    number of images if the folds are too small, or for a score that is not finite.
    """
    check_sizes(len(fold_a), len(fold_b), target)
    _check_finite(fold_a, fold_b)
    folds_a = {name: TailedFold.of(np.sort(values)) for name, values in fold_a.values.items()}
    combined = combine(folds_a, combination, fold_b.values)
    own = _own_classes(fold_a, fold_b, classes, target)
    shared = ~np.isin(fold_b.predicted, own)
    return Gate(
        folds_a=folds_a,
        combination=combination,
        fold_b=_final(combined[shared], target),
        own_folds_b={c: _final(combined[fold_b.predicted == c], target) for c in own},
        alpha_reject=target.alpha_reject,
        alpha_review=target.alpha_review,
    )


def combine(
    folds_a: Mapping[str, TailedFold], combination: Combination, values: Mapping[str, Float64]
) -> Float64:
    """Return the combined score of every image, [n], from each score's `values`."""
    return combined_score([folds_a[name].log_p(values[name]) for name in combination])


def final_p_values(gate: Gate, combined: Float64, predicted: NDArray[np.int64]) -> Float64:
    """Return the final p-value of every image, [n]: `Gate.judge` for arrays."""
    p = np.empty(len(combined))
    for c in [-1, *gate.own_folds_b]:
        fold = gate.own_folds_b.get(c, gate.fold_b)
        rows = predicted == c if c >= 0 else ~np.isin(predicted, [*gate.own_folds_b])
        p[rows] = fold.p_values(combined[rows])
    return p


def gate_file(gate: Gate, target: GateTarget, **reference: NDArray[np.float64]) -> bytes:
    """Return calibration.npz: the folds, and the arrays of the drift reference."""
    folds = [gate.fold_b, *gate.own_folds_b.values()]
    arrays: dict[str, NDArray[np.generic]] = {
        "scores_a": np.stack([fold.scores for fold in gate.folds_a.values()]),
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


def _own_classes(fold_a: Scores, fold_b: Scores, classes: int, target: GateTarget) -> list[int]:
    """Return the classes that get their own fold B, ascending; the others share one.

    Fold A decides, with two exceptions for fold B. A class shares if its fold B is too small.
    Then the smallest classes share until the shared fold is large enough.
    """
    in_a = np.bincount(fold_a.predicted, minlength=classes)
    in_b = np.bincount(fold_b.predicted, minlength=classes)
    need = target.least_images
    enough = np.flatnonzero((in_a >= _OWN_FACTOR * need) & (in_b >= need)).tolist()
    own = sorted(enough, key=lambda c: (in_b[c], c))
    sharing = len(fold_b) - int(in_b[own].sum())
    while own and len(own) < classes and sharing < need:
        sharing += int(in_b[own.pop(0)])
    return sorted(own)


def missing_images(
    fold_a: Scores, fold_b: Scores, classes: int, target: GateTarget, own: Collection[int]
) -> tuple[int, ...]:
    """Return how many calibration images each class lacks for a threshold of its own, [classes].

    The images are those predicted as the class. 0 for the classes `own`, and at least 1 for others.
    """
    in_a = np.bincount(fold_a.predicted, minlength=classes)
    in_b = np.bincount(fold_b.predicted, minlength=classes)
    need = target.least_images
    lacking = np.maximum(_OWN_FACTOR * need - in_a, need - in_b) / FOLD_SHARE
    missing = np.maximum(1, np.ceil(lacking)).astype(np.int64)
    missing[list(own)] = 0
    return tuple(missing.tolist())


def _check_finite(*folds: Scores) -> None:
    for fold in folds:
        for name, values in fold.values.items():
            if not np.isfinite(values).all():
                raise BuildRefused(
                    f"The {name} score of a calibration image is not finite. Check the checkpoint, "
                    "or remove the image."
                )


def _table(n: int, target: GateTarget) -> Float64:
    return marginal_p_values(n) if target.delta is None else pac_p_values(n, target.delta)


def _final(combined: Float64, target: GateTarget) -> FinalFold:
    return FinalFold(np.sort(combined), _table(len(combined), target))
