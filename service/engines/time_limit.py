"""A limit on the time that warm-up measures, and what it left unmeasured. Knows no engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TimeLimit:
    """The time for the measurements of a warm-up, counted from now on.

    A measurement that would not end in time is not begun, or not continued. None is cut short: what
    runs when the time is over ends with its round.
    """

    def __init__(self, limit_s: float = math.inf, clock: Callable[[], float] | None = None) -> None:
        """`clock` is time.perf_counter unless it is given."""
        self.unmeasured: list[str] = []  # in the order in which they were left out
        self._clock = clock or time.perf_counter
        self._end = self._clock() + limit_s

    @property
    def left_s(self) -> float:
        """Return how much of the time is left; not above 0 if it is over."""
        return self._end - self._clock()

    def allows(self, seconds: float, what: str) -> bool:
        """Return whether a measurement of about `seconds` ends in time; if not, note `what`."""
        if self.left_s > seconds:
            return True
        self.unmeasured.append(what)
        return False

    def rounds(self, measure: Callable[[], T], count: int, what: str) -> list[T] | None:
        """Measure `count` rounds; return None, and note `what`, if they do not end in time.

        How long the rest takes follows from the rounds before.
        """
        begun, done = self._clock(), list[T]()
        while len(done) < count:
            per_round = (self._clock() - begun) / len(done) if done else 0.0
            if not self.allows(per_round * (count - len(done)), what):
                return None
            done.append(measure())
        return done
