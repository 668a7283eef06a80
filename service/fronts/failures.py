"""How often front ends have failed lately, and what follows from it."""

from __future__ import annotations

from collections import deque

TOO_MANY, WITHIN_S = 5, 60.0
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


class Failures:
    """The last failures: one pauses the next start, many in a minute end the service."""

    def __init__(self) -> None:
        self._at: deque[float] = deque(maxlen=TOO_MANY)

    def add(self, now: float) -> None:
        """Count a failure."""
        self._at.append(now)

    def are_too_many(self, now: float) -> bool:
        """Return whether starting another front end is no longer of use."""
        return self._recent(now) == TOO_MANY

    def pause_s(self, now: float) -> float:
        """Return how long to wait before the next start; longer after each failure."""
        return min(_LONGEST_PAUSE_S, _PAUSE_S * 2.0 ** max(0, self._recent(now) - 1))

    def _recent(self, now: float) -> int:
        return sum(now - at < WITHIN_S for at in self._at)
