"""Has the mean of the features moved? Hotelling's two-sample test along the reference's axes.

The features of recent images are summed as they are; the sum is whitened when somebody asks, which
is the same as whitening each and costs a thousandth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Embedding:
    """Where the reference's features lie, as a bundle sealed it."""

    mean: Float64  # [D]
    axes: Float64  # [D, k]: whitened features are (features − mean) @ axes
    samples: int  # more than k


@dataclass(frozen=True, slots=True)
class EmbeddingShift:
    """How far the mean of recent images' whitened features is from the reference's."""

    z: float  # nearly standard normal while nothing has changed
    distance: float  # in standard deviations of one image, less what noise gives


class RecentMean:
    """The mean of the last images' features, in blocks: between `window − block` and `window`."""

    def __init__(self, width: int, window: int, blocks: int = 20) -> None:
        self._block = max(1, window // blocks)
        self.counts = np.zeros(blocks, np.int64)
        self.sums = np.zeros((blocks, width), np.float64)  # the block being filled comes first

    def add(self, features: NDArray[np.float32]) -> None:
        """Take one image's features up, [D]."""
        if self.counts[0] == self._block:
            self.counts, self.sums = np.roll(self.counts, 1), np.roll(self.sums, 1, axis=0)
            self.counts[0], self.sums[0] = 0, 0.0
        self.counts[0] += 1
        self.sums[0] += features

    @property
    def images(self) -> int:
        """Return of how many images the mean is."""
        return int(self.counts.sum())

    @property
    def mean(self) -> Float64:
        """Return the mean, [D]; there must be an image."""
        return np.asarray(self.sums.sum(axis=0) / self.images, np.float64)

    def check(self, counts: NDArray[np.generic]) -> None:
        """Raise ValueError if a block holds more images than a block can."""
        if any(count > self._block for count in counts.tolist()):
            raise ValueError("a block counts more images than it holds")

    def restore(self, counts: NDArray[np.int64], sums: Float64) -> None:
        """Go on from what an earlier process took up."""
        self.counts[:], self.sums[:] = counts, sums


def embedding_shift(recent: RecentMean, reference: Embedding) -> EmbeddingShift:
    """Compare two means: T² ~ F(k, samples − k), as Paulson's (1942) z. Without images: zeros.

    The covariance is the reference's alone, so that its change cannot hide one of the mean.
    """
    n, m = recent.images, reference.samples
    if n == 0:
        return EmbeddingShift(0.0, 0.0)
    k = reference.axes.shape[1]
    moved = (recent.mean - reference.mean) @ reference.axes
    square, noise = float(moved @ moved), 1 / n + 1 / m
    f = square / noise * (m - k) / ((m - 1) * k)
    return EmbeddingShift(paulson(f, k, m - k), math.sqrt(max(0.0, square - k * noise)))


def paulson(f: float, k: int, freedom: int) -> float:
    """Return the nearly normal z of an F with `k` and `freedom` degrees of freedom."""
    root, a, b = math.cbrt(f), 2 / (9 * k), 2 / (9 * freedom)
    return ((1 - b) * root - (1 - a)) / math.sqrt(b * root * root + a)
