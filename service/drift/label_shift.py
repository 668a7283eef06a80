"""Which mix of true classes would explain the predicted ones, and does any?

Label shift: the classes come in another mix, each looking as it always did (Lipton et al. 2018,
"Detecting and correcting for label shift with black box predictors"). Their estimate inverts the
confusion matrix; here it is the mix of greatest likelihood (Saerens et al. 2002's EM on predicted
classes), which is the same where that inverse is a mix, and one also where it is not.
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
    """An estimated mix of the true classes, and how badly the best mix explains what is seen."""

    fractions: Float64  # [classes], sums to 1
    residual_z: float  # large: no mix of the known classes looks like this


def label_shift(predicted: Int64, confusion: Int64) -> LabelShift:
    """Estimate the mix of true classes behind counts of predicted ones, [classes].

    `confusion` [actual, predicted] counts labelled images of the calibration's time. A class that
    it has no image of is taken to be predicted as itself.
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
    # A trace of every prediction keeps one that the test split never showed from being impossible.
    seen_as = seen_as + 0.5 / (per_class.sum() + 1)
    seen_as /= seen_as.sum(axis=1, keepdims=True)
    for _ in range(_STEPS):
        mix = mix * (seen_as @ (predicted / (mix @ seen_as))) / total
    samples = max(1, int(per_class.sum()))
    return LabelShift(mix, shift(predicted, mix @ seen_as * samples, samples).z)
