"""Histograms of a gate's calibration images, so that one image can be shown among them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tidegate.service.ood.conformal import Float64
from tidegate.service.ood.gates import FinalFold, Gate

BINS = 32
P_BINS = 20
_CUT = 0.005  # of the images on each side; they are in the outer bins


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts between equally spaced edges. Images outside are in the first or the last bin."""

    edges: Float64  # [bins + 1], ascending
    counts: Sequence[int]  # [bins]


@dataclass(frozen=True, slots=True)
class FoldHistogram:
    """The combined scores of one fold B, and above which of them an image is held back."""

    combined: Histogram
    review_above: float
    reject_above: float
    size: int


@dataclass(frozen=True, slots=True)
class CalibrationHistograms:
    """Fold A for each score; fold B for the combination and for the final p-value."""

    scores: dict[str, Histogram]  # in the order of the graph's columns
    fold: FoldHistogram  # of the images that share a class's threshold
    p_values: Histogram  # of all of fold B, between 0 and 1


def calibration_histograms(gate: Gate, class_id: int | None = None) -> CalibrationHistograms:
    """Return the histograms of a gate, with the fold B that judges images predicted as a class.

    Without a class, it is the fold that most classes share; the largest if each has its own.
    """
    folds = [fold for fold in (gate.fold_b, *gate.own_folds_b.values()) if len(fold.combined)]
    chosen = gate.own_folds_b.get(-1 if class_id is None else class_id, gate.fold_b)
    if not len(chosen.combined):
        chosen = max(folds, key=lambda fold: len(fold.combined))
    return CalibrationHistograms(
        scores={name: _histogram(fold.scores) for name, fold in gate.folds_a.items()},
        fold=_fold_histogram(chosen, gate),
        p_values=_p_values(folds),
    )


def _fold_histogram(fold: FinalFold, gate: Gate) -> FoldHistogram:
    review, reject = (_limit(fold, alpha) for alpha in (gate.alpha_review, gate.alpha_reject))
    return FoldHistogram(_histogram(fold.combined, reject), review, reject, size=len(fold.combined))


def _limit(fold: FinalFold, alpha: float) -> float:
    """Return the combined score above which p ≤ alpha; the largest score if none is below it."""
    reached = int(np.count_nonzero(fold.p_by_rank <= alpha))  # ranks from 0 on: p ascends with them
    return float(fold.combined[len(fold.combined) - max(1, reached)])


def _histogram(ascending: Float64, least_end: float = -np.inf) -> Histogram:
    """Count sorted scores. `least_end` is inside, with room beyond it."""
    cut = int(_CUT * len(ascending))
    start, end = float(ascending[cut]), float(ascending[len(ascending) - 1 - cut])
    spread = max(end - start, 1e-9)
    end = max(end, least_end + spread / 8)
    edges = np.linspace(start, end if end > start else start + spread, BINS + 1)
    counts, _ = np.histogram(np.clip(ascending, edges[0], edges[-1]), edges)
    return Histogram(edges, counts.tolist())


def _p_values(folds: Sequence[FinalFold]) -> Histogram:
    edges = np.linspace(0, 1, P_BINS + 1)
    p = np.concatenate([fold.p_values(fold.combined) for fold in folds])
    counts, _ = np.histogram(p, edges)
    return Histogram(edges, counts.tolist())
