"""Compare a histogram of recent images with its reference, taking sampling noise into account."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shift:
    """Two criteria that must agree: statistical significance (z) and effect size (psi_excess)."""

    z: float  # approximately standard normal without drift
    psi_excess: float  # population stability index, minus the part expected from noise


class Recent:
    """Counts of the last `window − block` to `window` images, kept in blocks."""

    def __init__(self, bins: int, window: int, blocks: int = 20) -> None:
        self._block = max(1, window // blocks)
        self._in_block = 0
        self.counts = np.zeros((blocks, bins), np.int64)  # row 0 is the block being filled

    def add(self, places: Int64) -> None:
        """Count images, by their bins, in the order of their arrival."""
        if len(places) == 0:
            return
        blocks, bins = self.counts.shape
        block = (self._in_block + np.arange(len(places))) // self._block  # 0 is being filled
        begun = int(block[-1])
        counts = np.bincount(block * bins + places, minlength=(begun + 1) * bins)
        newest = counts.reshape(-1, bins)[::-1][:blocks]
        if begun:
            self.counts[begun:] = self.counts[:-begun].copy()
            self.counts[:begun] = 0
        self.counts[: len(newest)] += newest
        self._in_block += len(places) - begun * self._block

    @property
    def total(self) -> Int64:
        """Return the counts, [bins]."""
        return np.asarray(self.counts.sum(axis=0), np.int64)

    def check(self, counts: NDArray[np.generic]) -> None:
        """Raise ValueError if a block counts more images than its size."""
        if any(sum(block) > self._block for block in counts.tolist()):
            raise ValueError("a block counts more images than its size")

    def restore(self, counts: Int64) -> None:
        """Restore the state of an earlier process."""
        self.counts[:] = counts
        self._in_block = int(counts[0].sum())


def shift(observed: Int64, expected: Float64, samples: float, design_effect: float = 1.0) -> Shift:
    """Compare counts [bins] with expected counts [bins] out of `samples` reference images.

    With a design effect, the images count as much as `images / design_effect` independent ones.

    Pearson's χ² of two samples, over the bins that are non-empty in either, as Wilson and
    Hilferty's (1931) z: the class-mix statistic of the Prometheus rules. Returns zeros without
    images, or with fewer than two bins.
    """
    counts = observed / design_effect
    total = float(counts.sum())
    pooled = counts + expected
    seen = pooled > 0
    bins = int(seen.sum())
    if total == 0 or bins < 2:
        return Shift(0.0, 0.0)
    counts, expected, pooled = counts[seen], expected[seen], pooled[seen]
    difference = counts / total - expected / samples
    chi2 = float((difference**2 / pooled).sum() * (total + samples) / (1 / total + 1 / samples))
    p = (counts + 0.5) / (total + bins / 2)
    q = (expected + 0.5) / (samples + bins / 2)
    psi = float(((p - q) * np.log(p / q)).sum())
    noise = (bins - 1) * (1 / total + 1 / samples)
    return Shift(wilson_hilferty(chi2, bins - 1), psi - noise)


def wilson_hilferty(chi2: float, freedom: float) -> float:
    """Return the approximately normal z of a χ² with `freedom` degrees of freedom."""
    spread = 2 / (9 * freedom)
    return (math.cbrt(chi2 / freedom) - (1 - spread)) / math.sqrt(spread)
