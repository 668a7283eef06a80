"""The arrays and values that travel along the road. No behaviour beyond slicing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NewType

import numpy as np
from numpy.typing import NDArray

Pixels = NewType("Pixels", NDArray[np.uint8])  # [H, W, 3], after resize and crop
Float32 = NDArray[np.float32]
Decision = Literal["accept", "review", "reject"]
# The outputs of a sealed graph, in the order of Outputs.
OUTPUT_NAMES = ("logits", "features", "energy", "mahalanobis", "nearest_class")


class Priority(IntEnum):
    """Which class of work goes first; within a class, the earliest deadline does."""

    INTERACTIVE = 0  # one image, someone waits
    BULK = 1  # part of a /classify/batch upload


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the sealed graph returns for one batch; every array is batch-first."""

    logits: Float32  # [batch, classes], before softmax
    features: Float32  # [batch, D], penultimate layer
    energy: Float32  # [batch], higher is more unusual
    mahalanobis: Float32  # [batch], squared distance to the nearest class; higher is more unusual
    nearest_class: NDArray[np.int64]  # [batch]

    def rows(self, start: int, stop: int) -> Outputs:
        """Return the outputs of images `start` to `stop`."""
        return Outputs(
            self.logits[start:stop],
            self.features[start:stop],
            self.energy[start:stop],
            self.mahalanobis[start:stop],
            self.nearest_class[start:stop],
        )

    def finite(self, index: int) -> bool:
        """Tell whether image `index` got numbers: a NaN anywhere upstream reaches its energy."""
        return bool(np.isfinite(self.energy[index]) and np.isfinite(self.mahalanobis[index]))
