"""One comparison of two versions: evidence that the canary is worse, and that it is not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tidegate.service.rollout.evidence import Bets, Gains, log_mean
from tidegate.service.rollout.groups import GROUP, Bool, Float64

NON_INFERIORITY = 0.05  # probability that a canary that is worse by a margin is promoted
_SHOWN = math.log(1 / NON_INFERIORITY)


class Comparison:
    """The evidence of one comparison, and the means of both versions for the report."""

    def __init__(
        self,
        name: str,
        margin: float,
        bound: float,
        *,
        required: bool = False,
        bets: int = 1,
        signals: int = 0,
    ) -> None:
        """It alarms at an e-value of `bound`; a promotion may require that it is not worse."""
        self.name, self.margin, self.bound, self.required = name, margin, bound, required
        self.images = [0, 0]  # stable, canary
        self._totals = [0.0, 0.0]
        self.log_evidence = self.log_not_worse = 0.0
        self.alarm = self.shown = False
        self._worse, self._not_worse = Bets(bets, signals), Bets(1)
        self._compared, self._total = GROUP, 0.0

    def count(self, canary: Bool, values: Float64) -> None:
        """Add images to the means, [n] each."""
        for arm, chosen in enumerate((~canary, canary)):
            self.images[arm] += int(chosen.sum())
            self._totals[arm] += float(values[chosen].sum())

    def mean(self, arm: int) -> float | None:
        """Return the mean of one version; None without images."""
        return self._totals[arm] / self.images[arm] if self.images[arm] else None

    @property
    def baseline(self) -> float:
        """Return the mean of the images that were compared so far."""
        return self._total / self._compared

    def learn_baseline(self, values: Float64) -> None:
        """Add values of images that were compared."""
        self._compared += values.size
        self._total += float(values.sum())

    def add(
        self,
        worse: Gains,
        not_worse: Gains | None = None,
        combine: Callable[[Float64], Float64] = log_mean,
        signals: Float64 | None = None,
    ) -> None:
        """Add groups: gains of bets that the canary is worse, and of one that it is not.

        `signals` are what the design effect is measured on, if not the gains.
        """
        if len(worse.values) == 0:
            return
        path = combine(self._worse.add(worse, signals))
        self.log_evidence = float(path[-1])
        self.alarm = self.alarm or float(path.max()) >= math.log(self.bound)
        if not_worse is not None:
            path = self._not_worse.add(not_worse)[:, 0]
            self.log_not_worse = float(path[-1])
            self.shown = self.shown or float(path.max()) >= _SHOWN

    @property
    def design_effect(self) -> float:
        """Return how many images count as one, at most over the bets."""
        return float(np.max(self._worse.design_effects))

    def missing(self) -> int | None:
        """Return about how many more images of the canary a promotion needs; None: unknown."""
        growth = float(self._not_worse.growth()[0])
        if growth <= 0:
            return None
        images = (_SHOWN - self.log_not_worse) / growth
        return max(1, math.ceil(images * self.images[1] / sum(self.images)))
