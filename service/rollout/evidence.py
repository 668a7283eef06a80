"""Evidence that a mean difference is above a margin, valid whenever one looks.

Testing by betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", 2024): a bet multiplies a wealth by 1 + λ·(difference − margin) after each image. If the
mean difference is at most the margin, the wealth is at most 1 on average at any stopping time, so
it ever reaches W with a probability of at most 1/W (Ville). A mixture over stakes λ has the same
property.

Images that come in runs are not independent. With a design effect D a factor enters as its D-th
root, and the wealth counts 1/D as much: the product is then the geometric mean of D interleaved
products, of which at least one has to reach W.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.service.rollout.groups import GROUP

Float64 = NDArray[np.float64]

STAKES = np.array([0.9, 0.5, 0.25, 0.12, 0.06, 0.03])  # of the largest that cannot lose everything
_PRIOR_PAIRS, _PRIOR_EFFECT = 4.0, 3.0
_REMEMBERED = 1000.0  # pairs; when it is reached, all count half from then on
_LEAST_VARIANCE = 1e-9


class DesignEffect:
    """How many times as much the sums of groups vary as those of independent images.

    Each group is compared with the one before the last (Allan's variance), so neither a level nor a
    slow change counts, and a run may go on in the next group. The first groups are pulled towards a
    prior, for a few tell little. Runs are seen as far as they fit into a group.
    """

    def __init__(self, columns: int) -> None:
        self._last = np.zeros((0, columns))  # sums of the last two groups
        self._pairs, self._groups = 0.0, 0.0
        self._squares = np.zeros(columns)  # of differences between their sums
        self._sums, self._sums_of_squares = np.zeros(columns), np.zeros(columns)
        self.value = np.full(columns, _PRIOR_EFFECT)

    def add(self, values: Float64) -> None:
        """Add groups in the order of their images, [groups, GROUP, columns]."""
        sums = np.concatenate([self._last, values.sum(axis=1)])
        self._pairs += max(len(sums) - 2, 0)
        self._squares += ((sums[2:] - sums[:-2]) ** 2).sum(axis=0)
        self._last = sums[-2:]
        self._groups += len(values)
        self._sums += values.sum(axis=(0, 1))
        self._sums_of_squares += (values**2).sum(axis=(0, 1))
        images = max(self._groups, 1.0) * GROUP
        variance = self._sums_of_squares / images - (self._sums / images) ** 2
        ratios = self._squares / (2 * GROUP * np.maximum(variance, _LEAST_VARIANCE))
        prior = _PRIOR_PAIRS * _PRIOR_EFFECT
        self.value = np.maximum((ratios + prior) / (self._pairs + _PRIOR_PAIRS), 1.0)
        if self._pairs >= _REMEMBERED:
            self._halve()

    def _halve(self) -> None:
        self._pairs /= 2
        self._squares /= 2
        self._groups /= 2
        self._sums /= 2
        self._sums_of_squares /= 2


@dataclass(frozen=True, slots=True)
class Gains:
    """What bets may win or lose."""

    values: Float64  # [groups, GROUP, bets]; at most the margin on average if the null holds
    worst: Float64  # the same shape: how far below the margin it could have been; 0: no bet
    margins: Float64  # [bets]

    @property
    def shares(self) -> Float64:
        """Return the gains as shares of the worst loss, −1 or more; 0 without a bet."""
        worst = np.where(self.worst > 0, self.worst, np.inf)
        return np.asarray((self.values - self.margins) / worst)


class Bets:
    """Bets that the gains of several columns are positive on average."""

    def __init__(self, columns: int, signals: int = 0) -> None:
        """With `signals` the design effect is theirs, not that of the bets."""
        self.log_wealth = np.zeros((columns, len(STAKES)))
        self.images = 0
        self._pooled = signals > 0
        self._effect = DesignEffect(signals or columns)

    @property
    def design_effects(self) -> Float64:
        """Return the design effect of each bet, or the one of all bets, [bets] or [1]."""
        return self._effect.value.mean(keepdims=True) if self._pooled else self._effect.value

    def add(self, gains: Gains, signals: Float64 | None = None) -> Float64:
        """Add groups, and their signals, [groups, GROUP, signals].

        Return the log evidence of each bet after each group, [groups, bets].
        """
        # Learn first, so that a run is known to be one before its images are weighed.
        self._effect.add(gains.values if signals is None else signals)
        effect = self.design_effects
        self.images += gains.values.shape[0] * GROUP
        factors: Float64 = np.multiply.outer(gains.shares, STAKES)
        factors += 1
        steps = np.log(factors.reshape(-1, 4, GROUP // 4, *factors.shape[2:]).prod(axis=2))
        steps = steps.sum(axis=1) / effect[:, None]
        path: Float64 = self.log_wealth + np.cumsum(steps, axis=0)
        if len(path):
            self.log_wealth = path[-1]
        return np.asarray(log_mean(path) - np.log(effect))

    def growth(self) -> Float64:
        """Return the log evidence that an image adds with the best stake, [bets]."""
        return np.asarray(self.log_wealth.max(axis=1) / max(self.images, 1))


def log_mean(logs: Float64) -> Float64:
    """Return log(mean(exp(logs))) over the last axis."""
    most = logs.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(logs - most).mean(axis=-1)) + most[..., 0], np.float64)


def differences(
    weights: Float64, values: Float64, baseline: Float64, margins: Float64, sign: int
) -> Gains:
    """Return the gains of bets that sign·(canary − stable) exceeds a margin.

    `weights` are [groups, GROUP] (see groups), `values` [groups, GROUP, bets] from 0 to 1,
    `baseline` and `margins` [bets].
    """
    w = weights[:, :, None]
    # The version was not known when the stake was chosen, so both count.
    q = np.where(w > 0, 1 / np.maximum(w, 1), 1 + 1 / np.minimum(w, -1.01))
    low, high = (baseline, 1 - baseline) if sign > 0 else (1 - baseline, baseline)
    worst = np.maximum(low / q, high / (1 - q)) + margins
    worst = np.where(w != 0, np.maximum(worst, 0.0), 0.0)
    return Gains(sign * w * (values - baseline), worst, margins)
