"""The reference for drift, from the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.embedding import Embedding

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

INPUTS = (
    "brightness",
    "contrast",
    "blur",
    "megapixels",
    "aspect",
    "bytes_per_pixel",
    "mode",
)  # the input statistics


@dataclass(frozen=True, slots=True)
class Bins:
    """A sealed histogram: ascending inner edges, and one more count than edges."""

    edges: Float64
    counts: Int64

    def places(self, values: Float64) -> Int64:
        """Return the bin of each value.

        A fit rounds values to float32, and a manifest has nine digits of an edge, from which
        float32 is restored: both are rounded, so that a value that all images have, such as 4 / 3
        or 0.050176, falls into the bin in which the fit counted it.
        """
        return self.edges.astype(np.float32).searchsorted(values.astype(np.float32), "right")


@dataclass(frozen=True, slots=True)
class Reference:
    """The part of a model's calibration that drift detection needs."""

    class_counts: Int64  # [classes], of the predictions on the reference images
    alpha_reject: float
    calibration_samples: int  # per final p-value
    histograms: Mapping[str, Bins]  # confidence, brightness, …; those in the bundle
    confusion: Int64 | None  # [actual, predicted]; None if the bundle has not every pair
    embedding: Embedding | None = None  # None if the bundle has none
