"""Label shift: estimate the mix of true classes from the predicted classes.

Under label shift the class mix changes, but the images of each class do not (Lipton et al. 2018,
"Detecting and correcting for label shift with black box predictors"). Lipton et al. invert the
confusion matrix. This module computes the maximum-likelihood mix (EM of Saerens et al. 2002, on
predicted classes): the same result if the inverse is a valid mix, and a valid mix otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.histograms import shift

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_STEPS = 300


@dataclass(frozen=True, slots=True)
class LabelShift:
    """An estimated mix of the true classes, and how badly it explains the predictions."""

    fractions: Float64  # [classes], sums to 1
    residual_z: float  # large: no mix of the known classes explains the predictions


def label_shift(predicted: Int64, confusion: Int64) -> LabelShift:
    """Estimate the mix of true classes from the counts of predicted classes, [classes].

    `confusion` [actual, predicted] counts the labelled images of the test split. A class without
    images there is assumed to be predicted correctly.
    """
    classes = len(predicted)
    per_class = confusion.sum(axis=1)
    seen_as = np.where(
        per_class[:, None] > 0, confusion / np.maximum(per_class, 1)[:, None], np.eye(classes)
    )
    mix = np.full(classes, 1 / classes)
    total = predicted.sum()
    if total == 0:
        return LabelShift(mix, 0.0)
    # Smoothing: a prediction that never occurred in the test split must not be impossible.
    seen_as = seen_as + 0.5 / (per_class.sum() + 1)
    seen_as /= seen_as.sum(axis=1, keepdims=True)
    for _ in range(_STEPS):
        mix = mix * (seen_as @ (predicted / (mix @ seen_as))) / total
    samples = max(1, int(per_class.sum()))
    return LabelShift(mix, shift(predicted, mix @ seen_as * samples, samples).z)
