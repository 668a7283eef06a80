"""Drift of the features' mean: Hotelling's two-sample test along the reference's axes.

The raw features of recent images are summed, and only a report whitens the sum. The result equals
that of whitening every image, at a thousandth of the cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Embedding:
    """The distribution of the reference's features, from the bundle."""

    mean: Float64  # [D]
    axes: Float64  # [D, k]: whitened features are (features − mean) @ axes
    samples: int  # more than k


@dataclass(frozen=True, slots=True)
class EmbeddingShift:
    """The distance of the recent images' mean whitened features from the reference's."""

    z: float  # approximately standard normal without drift
    distance: float  # in standard deviations of one image, minus the part expected from noise


class MeanFeatures(Protocol):
    """The mean features of some images."""

    @property
    def images(self) -> int:
        """Return the number of images in the mean."""
        ...

    @property
    def mean(self) -> Float64:
        """Return the mean, [D]; requires at least one image."""
        ...


class RecentMean:
    """The mean features of the last `window − block` to `window` images, kept in blocks."""

    def __init__(self, width: int, window: int, blocks: int = 20) -> None:
        self._block = max(1, window // blocks)
        self.counts = np.zeros(blocks, np.int64)
        self.sums = np.zeros((blocks, width), np.float64)  # row 0 is the block being filled

    def add(self, features: NDArray[np.float32]) -> None:
        """Add one image's features, [D]."""
        if self.counts[0] == self._block:
            self.counts, self.sums = np.roll(self.counts, 1), np.roll(self.sums, 1, axis=0)
            self.counts[0], self.sums[0] = 0, 0.0
        self.counts[0] += 1
        self.sums[0] += features

    @property
    def images(self) -> int:
        """Return the number of images in the mean."""
        return int(self.counts.sum())

    @property
    def mean(self) -> Float64:
        """Return the mean, [D]; requires at least one image."""
        return np.asarray(self.sums.sum(axis=0) / self.images, np.float64)

    def check(self, counts: NDArray[np.generic]) -> None:
        """Raise ValueError if a block counts more images than its size."""
        if any(count > self._block for count in counts.tolist()):
            raise ValueError("a block counts more images than its size")

    def restore(self, counts: NDArray[np.int64], sums: Float64) -> None:
        """Restore the state of an earlier process."""
        self.counts[:], self.sums[:] = counts, sums


def embedding_shift(
    recent: MeanFeatures, reference: Embedding, design_effect: float = 1.0
) -> EmbeddingShift:
    """Compare two means: T² ~ F(k, samples − k), as Paulson's (1942) z; zeros without images.

    With a design effect, the images count as much as `images / design_effect` independent ones.

    Only the reference's covariance is used, so that a change of the covariance cannot hide a
    change of the mean.
    """
    n, m = recent.images / design_effect, reference.samples
    if n == 0:
        return EmbeddingShift(0.0, 0.0)
    k = reference.axes.shape[1]
    moved = (recent.mean - reference.mean) @ reference.axes
    square, noise = float(moved @ moved), 1 / n + 1 / m
    f = square / noise * (m - k) / ((m - 1) * k)
    return EmbeddingShift(paulson(f, k, m - k), math.sqrt(max(0.0, square - k * noise)))


def paulson(f: float, k: int, freedom: int) -> float:
    """Return the approximately normal z of an F with `k` and `freedom` degrees of freedom."""
    root, a, b = math.cbrt(f), 2 / (9 * k), 2 / (9 * freedom)
    return ((1 - b) * root - (1 - a)) / math.sqrt(b * root * root + a)
