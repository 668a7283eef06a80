"""How much less images count than independent ones: the design effect, learned from the traffic.

Images that come in runs (a video, an album, a batch of one client) are alike. For runs of k like
images a count varies k times as much as for independent images; this factor is the design effect
D (Kish 1965). It is measured by differences of neighbouring blocks of 1, 2, 4, … images (Haar's
wavelet, or Allan's variance). The differences do not see the level, so neither a slow change nor a
daily rhythm is taken for dependence, and an incident is seen only at its two ends. As long as there
are few differences of large blocks, an upper limit from neighbouring images counts, too: the first
images count as one run until they differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.histograms import wilson_hilferty

Float64 = NDArray[np.float64]

MAX_DESIGN_EFFECT = 64.0
LEVELS = 9  # blocks of 1 to 256 images
_REMEMBERED = 1024  # differences per level; when it is reached, all count half from then on
_SIGNIFICANT = 4.0  # standard errors
_FIRST_IMAGES = 4_096  # before, neighbouring images count as well
_NEIGHBOURS = 1.0  # standard errors: a lower limit at 84 %
_UPPER = 1.28  # standard errors: the estimate is an upper limit at 90 %


class Dependence:
    """Estimates the design effect of a sequence of signals, each with mean 0 and variance 1."""

    def __init__(self, signals: int) -> None:
        self.sums = np.zeros((LEVELS, signals))  # of squared differences
        self.counts = np.zeros(LEVELS)
        self.waiting = np.zeros((LEVELS, signals))  # a block that has no neighbour yet
        self.has_waiting = np.zeros(LEVELS, bool)
        self.last = np.zeros(signals)  # image
        self.steps = np.zeros(signals)  # sums of squared differences of images in a row
        self.images = np.zeros(1)

    def add(self, signals: Float64) -> None:
        """Add images in the order of their arrival, [n, signals]."""
        if len(signals) == 0:
            return
        row = np.concatenate([self.last[None], signals]) if self.images[0] else signals
        self.steps += (np.diff(row, axis=0) ** 2).sum(axis=0) / 2
        self.last[:] = signals[-1]
        self.images += len(signals)
        blocks = signals
        for level in range(LEVELS):
            if self.has_waiting[level]:
                blocks = np.concatenate([self.waiting[None, level], blocks])
            pairs = len(blocks) // 2
            self.has_waiting[level] = len(blocks) % 2
            if len(blocks) % 2:
                self.waiting[level] = blocks[-1]
            if pairs == 0:
                return
            left, right = blocks[0 : 2 * pairs : 2], blocks[1 : 2 * pairs : 2]
            squares = (left - right) ** 2 / 2 ** (level + 1)
            self.sums[level] += squares.sum(axis=0)
            self.counts[level] += pairs
            if self.counts[level] > _REMEMBERED:
                keep = _REMEMBERED / 2 / self.counts[level]
                self.counts[level] *= keep
                self.sums[level] *= keep
            blocks = left + right

    def design_effect(self, independent: int = 1, kurtosis: float = 0.0) -> float:
        """Return an upper limit of the design effect, from 1 to MAX_DESIGN_EFFECT.

        It is 1 unless some level differs significantly from independence. `independent` is how many
        signals are linearly independent, `kurtosis` the largest excess kurtosis of one.
        """
        few = self.images[0] < _FIRST_IMAGES
        neighbours = self._of_neighbours(independent) if few else 1.0
        lower = upper = 1.0  # of the level with the largest lower limit
        means = self.sums.sum(axis=1) / self.sums.shape[1]
        for level in range(LEVELS):
            pairs = float(self.counts[level])
            # The variance of a squared difference is 2 + kurtosis / images.
            freedom = pairs * independent * 2 / max(2 + kurtosis / 2 ** (level + 1), 0.5)
            if pairs < 4 or freedom < 8:
                continue
            mean = float(means[level]) / pairs
            error = math.sqrt(2 / freedom)
            significant = wilson_hilferty(mean * freedom, freedom) > _SIGNIFICANT
            if significant and mean * (1 - _UPPER * error) > lower:
                lower, upper = mean * (1 - _UPPER * error), mean * (1 + _UPPER * error)
        return min(max(neighbours, upper), MAX_DESIGN_EFFECT)

    def _of_neighbours(self, independent: int) -> float:
        """Return an upper limit from the difference of neighbouring images alone.

        If their correlation is ρ, and that of images n apart ρⁿ, D is (1 + ρ)/(1 − ρ).
        """
        pairs = float(self.images[0]) - 1
        freedom = pairs * independent
        if freedom < 8:
            return MAX_DESIGN_EFFECT
        mean = float(self.steps.mean()) / pairs  # 1 − ρ
        least = mean * (1 - _NEIGHBOURS * math.sqrt(2 / freedom))
        return min(max(2 / max(least, 1e-3) - 1, 1.0), MAX_DESIGN_EFFECT)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays, for `restore` in another process."""
        return {name: array.copy() for name, array in vars(self).items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Restore the state of an earlier process."""
        for name, array in vars(self).items():
            array[...] = state[name]
