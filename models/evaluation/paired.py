"""Compare two classifiers on the same images: how many only one of them recognises."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri

CLEARLY = 0.05  # two-sided p-value
_Z = float(ndtri(0.975))


@dataclass(frozen=True, slots=True)
class Paired:
    """The images that only one of two classifiers recognises."""

    only_first: int
    only_second: int
    images: int

    @classmethod
    def of(cls, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Paired:
        """Return the counts for which images each recognises, both [n]."""
        return cls(int((first & ~second).sum()), int((second & ~first).sum()), len(first))

    @property
    def p_value(self) -> float:
        """Return the p-value of McNemar's exact test that both are right equally often."""
        fewer = min(self.only_first, self.only_second)
        return min(1.0, 2 * float(bdtr(fewer, self.only_first + self.only_second, 0.5)))

    @property
    def difference(self) -> float:
        """Return the accuracy of the first minus that of the second."""
        return (self.only_first - self.only_second) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the difference.

        Wald's, with half an image added to each of the four counts (Agresti & Min 2005).
        """
        n = self.images + 2
        middle = (self.only_first - self.only_second) / n
        differing = (self.only_first + self.only_second + 1) / n
        half = _Z * math.sqrt((differing - middle**2) / n)
        return max(-1.0, middle - half), min(1.0, middle + half)
