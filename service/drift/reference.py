"""What drift is measured against, as a bundle sealed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.embedding import Embedding

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bins:
    """A sealed histogram: ascending inner edges, and counts of one bin more."""

    edges: Float64
    counts: Int64


@dataclass(frozen=True, slots=True)
class Reference:
    """A model's calibration, as far as drift needs it."""

    class_fractions: Float64  # [classes], of the predictions on `samples` images
    samples: int
    alpha_reject: float
    calibration_samples: int  # behind each final p-value
    histograms: Mapping[str, Bins]  # confidence, brightness, …; those that were sealed
    confusion: Int64 | None  # [actual, predicted], when every pair was sealed
    embedding: Embedding | None = None  # when it was sealed
