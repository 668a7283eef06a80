"""Measure what is asked for, by class and haste. Pure."""

from __future__ import annotations

import math

from tidegate.service.batching.turns import Level

_MEMORY_S = 4.0  # longer than most deadlines: what came lately is what will come meanwhile
_ACTIVE_S = 10.0  # more may come this long after the last one
_MARGIN = 1.3  # arrivals within a second or two vary by that much


class Demand:
    """The admitted work of the last seconds, which fades exponentially."""

    def __init__(self) -> None:
        self._recent: dict[Level, tuple[float, float]] = {}  # seconds of work, and when

    def add(self, level: Level, work_s: float, now: float) -> None:
        """Count an admitted image."""
        self._recent[level] = self._left(level, now) + work_s, now

    def preferred_to(self, level: Level, now: float) -> float:
        """Return how much is preferred to this class and haste: seconds of work per second."""
        recent_s = sum(self._left(one, now) for one in self._recent if one < level)
        return _MARGIN * recent_s / _MEMORY_S

    def may_be_overtaken(self, level: Level, now: float) -> bool:
        """Return whether images that are preferred to this class and haste came lately."""
        return any(one < level and at > now - _ACTIVE_S for one, (_, at) in self._recent.items())

    def is_mixed(self, level: Level, now: float) -> bool:
        """Return whether images of another class or haste came lately."""
        return any(one != level and at > now - _ACTIVE_S for one, (_, at) in self._recent.items())

    def _left(self, level: Level, now: float) -> float:
        work_s, at = self._recent.get(level, (0.0, now))
        return work_s * math.exp((at - now) / _MEMORY_S)
