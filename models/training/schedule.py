"""Learning rates and durations. Pure: functions of the step."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Literal

_LOWEST = 1e-3  # of the peak, where a schedule ends
_ONE_CYCLE_RISE = 0.3  # share of the steps, as of Smith & Topin (2018)
_RECENT = 200  # steps


def rate_at(step: int, steps: int, kind: Literal["cosine", "one-cycle"], warm_up: float) -> float:
    """Return the learning rate of a step, from 0, as a share of the peak rate.

    "cosine" rises along a line during the share `warm_up` of the steps, "one-cycle" along half a
    cosine during 30 %; both fall along half a cosine to a thousandth. A function of the step alone,
    so that a resumed training needs no state of it.
    """
    rise = max(1, round(steps * (_ONE_CYCLE_RISE if kind == "one-cycle" else warm_up)))
    if step < rise:
        part = (step + 1) / (rise + 1)
        return _half_cosine(part) if kind == "one-cycle" else part
    part = (step - rise) / max(1, steps - rise)
    return _LOWEST + (1 - _LOWEST) * (1 - _half_cosine(part))


def _half_cosine(part: float) -> float:
    return (1 - math.cos(math.pi * min(1.0, part))) / 2


class Remaining:
    """Estimates how long the rest takes, from the means of recent steps and evaluations."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=_RECENT)
        self._evaluations: deque[float] = deque(maxlen=_RECENT)

    def step(self, seconds: float) -> None:
        """Add the duration of a training step."""
        self._steps.append(seconds)

    def evaluation(self, seconds: float) -> None:
        """Add the duration of an evaluation of the slice."""
        self._evaluations.append(seconds)

    def words(self, steps: int, evaluations: int) -> str:
        """Return how long so many steps and evaluations take, "about 4 min", or "" if unknown."""
        if not self._steps:
            return ""
        seconds = steps * statistics.fmean(self._steps)
        if self._evaluations:
            seconds += evaluations * statistics.fmean(self._evaluations)
        return f"about {duration(seconds)}"


def duration(seconds: float) -> str:
    """Return a duration in one unit, or two for hours: "40 s", "4 min", "2 h 10 min"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
