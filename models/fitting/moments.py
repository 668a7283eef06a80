"""Class means and scatter of a stream of features, in float64 and bounded memory.

The sums are those of `exact`, so they are the same with every NumPy and on every CPU.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.models import exact
from tidegate.models.data.rows import Float64


class ClassMoments:
    """Counts and means of each class and the scatter within classes, merged batch by batch.

    The update is Chan, Golub and LeVeque's (1979, eq. 2.1): sums of squares are always around a
    mean, so there is no cancellation.
    """

    def __init__(self, classes: int, width: int) -> None:
        self.counts = np.zeros(classes, np.int64)  # [C]
        self.means = np.zeros((classes, width))  # [C, D]
        self.scatter = np.zeros((width, width))  # [D, D], Σ (x − own class's mean)(…)ᵀ

    def add(self, features: NDArray[np.floating], class_ids: NDArray[np.int64]) -> None:
        """Add a batch: `features` [batch, D], `class_ids` [batch]."""
        x = np.asarray(features, np.float64)
        present, place = np.unique(class_ids, return_inverse=True)
        n = np.bincount(place)
        sums = np.zeros((len(present), x.shape[1]))
        np.add.at(sums, place, x)
        means = sums / n[:, None]
        within = x - means[place]
        self._merge(present, n, means, exact.product(within.T, within))

    def merge(self, other: ClassMoments) -> None:
        """Add the rows of another instance."""
        present = np.flatnonzero(other.counts)
        self._merge(present, other.counts[present], other.means[present], other.scatter)

    def _merge(
        self, present: NDArray[np.int64], n: NDArray[np.int64], means: Float64, scatter: Float64
    ) -> None:
        before = self.counts[present]
        total = before + n
        apart = means - self.means[present]
        between = apart * np.sqrt(before * n / total)[:, None]
        self.scatter += scatter + exact.product(between.T, between)
        self.means[present] += apart * (n / total)[:, None]
        self.counts[present] = total

    @property
    def samples(self) -> int:
        """Return the number of rows."""
        return int(self.counts.sum())

    @property
    def centre(self) -> Float64:
        """Return the mean of all rows, [D]."""
        return exact.product(self.counts[None], self.means).ravel() / self.samples

    @property
    def tied_covariance(self) -> Float64:
        """Return the covariance within classes, 1/N, [D, D]."""
        return self.scatter / self.samples

    @property
    def total_covariance(self) -> Float64:
        """Return the covariance of all rows around `centre`, 1/N, [D, D]."""
        apart = (self.means - self.centre) * np.sqrt(self.counts)[:, None]
        return (self.scatter + exact.product(apart.T, apart)) / self.samples
