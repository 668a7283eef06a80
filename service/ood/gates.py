"""The OOD gate: from an image's scores to a decision, accept, review or reject."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from tidegate.service.ood.conformal import Float64, TailedFold, marginal_p_values
from tidegate.service.types import Decision


class Verdict(NamedTuple):
    """The gate's result for one image. p-value: share of calibration images at least as unusual."""

    decision: Decision
    p_value: float
    percentile: float  # calibration images less unusual than this one, in percent
    score_p_values: Mapping[str, float]  # of each score against fold A, with its fitted tail
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

    def p_values(self, combined: Float64) -> Float64:
        """Return the final p-value of each combined score."""
        rank = len(self.combined) - self.combined.searchsorted(combined)
        return np.asarray(self.p_by_rank[rank])


@dataclass(frozen=True, slots=True)
class Gate:
    """Scores compared with fold A, their combination with fold B.

    A class with enough images has its own fold B, and its p-values are valid among the images
    predicted as that class (Mondrian conformal, Vovk et al. 2005, ch. 4.5). The other classes
    share one fold B.
    """

    folds_a: Mapping[str, TailedFold]  # score → its fold A, in the order of the graph's columns
    combination: tuple[str, ...]  # the scores that decide
    fold_b: FinalFold
    alpha_reject: float
    alpha_review: float
    own_folds_b: Mapping[int, FinalFold] = field(default_factory=dict)  # class → its fold

    @property
    def calibration_size(self) -> int:
        """Return the size of fold B, over all classes."""
        own = sum(len(fold.combined) for fold in self.own_folds_b.values())
        return len(self.fold_b.combined) + own

    def judge(self, scores: Sequence[float], predicted: int) -> Verdict:
        """Return the verdict on one image's scores, in the order of `folds_a`, and its class."""
        log_p = {
            name: fold.log_p(score)
            for (name, fold), score in zip(self.folds_a.items(), scores, strict=True)
        }
        combined = combined_score(log_p[name] for name in self.combination)
        fold = self.own_folds_b.get(predicted, self.fold_b)
        n = len(fold.combined)
        # Not by NumPy, which releases the interpreter lock for it; taking it back takes longer.
        less_unusual = bisect_left(fold.combined, combined)
        final = float(fold.p_by_rank[n - less_unusual])
        return Verdict(
            decision=self._decide(final),
            p_value=final,
            percentile=100.0 * less_unusual / n,
            score_p_values={name: math.exp(value) for name, value in log_p.items()},
            calibration_size=n,
        )

    def _decide(self, p: float) -> Decision:
        if p <= self.alpha_reject:
            return "reject"
        return "review" if p <= self.alpha_review else "accept"


@overload
def combined_score(log_p_values: Iterable[float]) -> float: ...
@overload
def combined_score(log_p_values: Iterable[Float64]) -> Float64: ...
def combined_score(log_p_values: Iterable[Any]) -> Any:
    """Return −Σ log p over the scores that decide: higher is more unusual (Fisher 1925).

    The p-values need not be independent, as fold B calibrates the sum. It is rounded to float32, so
    that the last bits of a library's logarithm do not decide between two equally unusual images.
    """
    return np.float64(np.float32(-sum(log_p_values)))
