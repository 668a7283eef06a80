"""Scores in, a verdict out: accept, review or reject."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.ood.conformal import combined_score, p_value
from service.types import Decision


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of one image. A p-value is the share of calibration images as unusual."""

    decision: Decision
    p_value: float
    percentile: float  # calibration images less unusual than this one, in percent
    energy_p_value: float
    mahalanobis_p_value: float


@dataclass(frozen=True, slots=True)
class Gate:
    """Two scores against fold A, their minimum against fold B; all folds sorted ascending."""

    energy_a: NDArray[np.float64]
    mahalanobis_a: NDArray[np.float64]
    combined_b: NDArray[np.float64]
    alpha_reject: float
    alpha_review: float

    @property
    def calibration_size(self) -> int:
        """Return n of the fold that gives the final p-value."""
        return len(self.combined_b)

    @property
    def smallest_p_value(self) -> float:
        """Return the least final p-value any scores can get: ties at fold B's end raise it."""
        return self.judge(math.inf, math.inf).p_value

    def judge(self, energy: float, mahalanobis: float) -> Verdict:
        """Return the verdict on one image's two scores; a NaN score is as unusual as can be."""
        energy_p = p_value(self.energy_a, energy)
        mahalanobis_p = p_value(self.mahalanobis_a, mahalanobis)
        score = combined_score(energy_p, mahalanobis_p)
        less_unusual = int(self.combined_b.searchsorted(score))
        final = p_value(self.combined_b, score)
        return Verdict(
            decision=self._decide(final),
            p_value=float(final),
            percentile=100.0 * less_unusual / self.calibration_size,
            energy_p_value=float(energy_p),
            mahalanobis_p_value=float(mahalanobis_p),
        )

    def _decide(self, p: float) -> Decision:
        if p <= self.alpha_reject:
            return "reject"
        return "review" if p <= self.alpha_review else "accept"
