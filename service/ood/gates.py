"""The OOD gate: from two scores to a decision, accept, review or reject."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tidegate.service.ood.conformal import combined_score, marginal_p_values, p_value
from tidegate.service.types import Decision


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's result for one image. p-value: share of calibration images at least as unusual."""

    decision: Decision
    p_value: float
    percentile: float  # calibration images less unusual than this one, in percent
    energy_p_value: float
    mahalanobis_p_value: float
    calibration_size: int  # calibration images that `p_value` is based on


@dataclass(frozen=True, slots=True)
class FinalFold:
    """Combined scores of images not used for any other fit, and the p-value of each rank."""

    combined: NDArray[np.float64]  # [n], ascending
    p_by_rank: NDArray[np.float64]  # [n + 1]: index = how many of the n are at least as unusual

    @classmethod
    def marginal(cls, combined: NDArray[np.float64]) -> FinalFold:
        """Return a fold whose p-values are valid on average over calibration sets."""
        return cls(combined, marginal_p_values(len(combined)))


@dataclass(frozen=True, slots=True)
class Gate:
    """Two scores compared with fold A, their combination with fold B; all sorted ascending.

    A class with enough images has its own fold B, and its p-values are valid among the images
    predicted as that class (Mondrian conformal, Vovk et al. 2005, ch. 4.5). The other classes
    share one fold B.
    """

    energy_a: NDArray[np.float64]
    mahalanobis_a: NDArray[np.float64]
    fold_b: FinalFold
    alpha_reject: float
    alpha_review: float
    own_folds_b: Mapping[int, FinalFold] = field(default_factory=dict)  # class → its fold

    @property
    def calibration_size(self) -> int:
        """Return the size of fold B, over all classes."""
        own = sum(len(fold.combined) for fold in self.own_folds_b.values())
        return len(self.fold_b.combined) + own

    @property
    def smallest_p_value(self) -> float:
        """Return the smallest possible final p-value; ties at a fold's end increase it."""
        classes = [-1, *self.own_folds_b] if len(self.fold_b.combined) else [*self.own_folds_b]
        return max(self.judge(math.inf, math.inf, c).p_value for c in classes)

    def judge(self, energy: float, mahalanobis: float, predicted: int) -> Verdict:
        """Return the verdict on one image's scores and class; a NaN counts as most unusual."""
        energy_p = p_value(self.energy_a, energy)
        mahalanobis_p = p_value(self.mahalanobis_a, mahalanobis)
        fold = self.own_folds_b.get(predicted, self.fold_b)
        n = len(fold.combined)
        less_unusual = int(fold.combined.searchsorted(combined_score(energy_p, mahalanobis_p)))
        final = float(fold.p_by_rank[n - less_unusual])
        return Verdict(
            decision=self._decide(final),
            p_value=final,
            percentile=100.0 * less_unusual / n,
            energy_p_value=float(energy_p),
            mahalanobis_p_value=float(mahalanobis_p),
            calibration_size=n,
        )

    def _decide(self, p: float) -> Decision:
        if p <= self.alpha_reject:
            return "reject"
        return "review" if p <= self.alpha_review else "accept"
