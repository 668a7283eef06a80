"""Types shared by the stages of a request. No behaviour beyond slicing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NewType, cast

import numpy as np
from numpy.typing import NDArray

Pixels = NewType("Pixels", NDArray[np.uint8])  # [H, W, 3], after resize and crop
Float32 = NDArray[np.float32]
Decision = Literal["accept", "review", "reject"]
# The outputs of a sealed graph, in the order of Outputs.
OUTPUT_NAMES = ("logits", "features", "scores", "nearest_class")
# The columns of `scores` that every bundle has, first; the manifest names all of them.
ENERGY, MAHALANOBIS = "energy", "mahalanobis"


class Priority(IntEnum):
    """Lower values are served first; within a priority, the earliest deadline is."""

    INTERACTIVE = 0  # one image of a /classify request
    BULK = 1  # part of a /classify/batch upload


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of the sealed graph for one batch; every array is batch-first."""

    logits: Float32  # [batch, classes], before softmax
    features: Float32  # [batch, D], penultimate layer
    scores: Float32  # [batch, S], OOD scores, as named in the manifest; higher is more unusual
    nearest_class: NDArray[np.int64]  # [batch]

    def rows(self, start: int, stop: int) -> Outputs:
        """Return the outputs of images `start` to `stop`."""
        return Outputs(
            self.logits[start:stop],
            self.features[start:stop],
            self.scores[start:stop],
            self.nearest_class[start:stop],
        )

    def all_finite(self) -> list[bool]:
        """Return for each image whether its scores are finite; a NaN in the network reaches them.

        For all together, because each call of NumPy takes microseconds.
        """
        return cast(list[bool], np.isfinite(self.scores).all(axis=1).tolist())
