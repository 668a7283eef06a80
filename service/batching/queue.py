"""Queues in the order in which requests run, with counts of the requests before an arrival."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from tidegate.service.batching.policy import Pace, Waiting, all_in_time, delays_beyond
from tidegate.service.types import Priority

W = TypeVar("W", bound=Waiting)
_Key = tuple[int, float, int]
_Preference = tuple[int, int, float, float, int]


class FairQueue(Generic[W]):
    """A queue ordered by preference while all stay in time, and by deadline otherwise.

    The class comes first in both orders (`Waiting.preference`, `Waiting.key`). Insert and remove
    move at most n pointers. For the thousands of requests that a queue may contain, this costs less
    than a heap that has to track cancellations.
    """

    def __init__(self) -> None:
        self._keys: list[_Key] = []
        self._requests: list[W] = []  # by deadline, as `_keys`
        self._preferences: list[_Preference] = []
        self._preferred: list[W] = []

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def head(self) -> W:
        """Return the request of the highest class with the earliest deadline."""
        return self._requests[0]

    def insert(self, request: W) -> None:
        """Insert a request in order."""
        at = bisect_left(self._keys, request.key)
        self._keys.insert(at, request.key)
        self._requests.insert(at, request)
        at = bisect_left(self._preferences, request.preference)
        self._preferences.insert(at, request.preference)
        self._preferred.insert(at, request)

    def remove(self, request: W) -> None:
        """Remove a request; raise KeyError if it is not in the queue."""
        at = bisect_left(self._keys, request.key)
        if at == len(self._keys) or self._requests[at] is not request:
            raise KeyError(request.key)
        del self._keys[at], self._requests[at]
        at = bisect_left(self._preferences, request.preference)
        del self._preferences[at], self._preferred[at]

    def preferred(self, most: int) -> list[W]:
        """Return the first `most` requests by preference, which stay in the queue."""
        return self._preferred[:most]

    def first(self, most: int) -> list[W]:
        """Return the first `most` requests by deadline, which stay in the queue."""
        return self._requests[:most]

    def may_go_first(self, chosen: Sequence[W], pace: Callable[[], Pace]) -> bool:
        """Return whether all with earlier deadlines than `chosen` stay in time behind them."""
        if chosen == self._requests[: len(chosen)]:
            return True
        last = bisect_left(self._keys, max(request.key for request in chosen))
        gone = set(chosen)
        behind = (one.deadline for one in self._requests[:last] if one not in gone)
        return all_in_time(behind, len(chosen), pace())

    def all_in_time(self, pace: Pace) -> bool:
        """Return whether all stay in time if they run by deadline."""
        return all_in_time((key[1] for key in self._keys), 0, pace)

    def before(self, priority: Priority, deadline: float) -> list[W]:
        """Return the requests before an arrival of this class and deadline, by deadline."""
        return self._requests[: self._position(priority, deadline)]

    def delays(self, priority: Priority, deadline: float, pace: Callable[[], Pace]) -> bool:
        """Return whether an arrival makes one of its class late, of those with later deadlines."""
        return _delays(self._keys, priority, deadline, 0, pace)

    def take(self, chosen: Sequence[W]) -> Iterator[W]:
        """Yield `chosen`, then the others by deadline, and remove each when it is yielded."""
        for request in chosen:
            self.remove(request)
            yield request
        while self._requests:
            request = self._requests[0]
            self.remove(request)
            yield request

    def _position(self, priority: Priority, deadline: float) -> int:
        return bisect_right(self._keys, (priority, deadline, 1 << 62))


class AdmittedKeys:
    """The sort keys of admitted requests, to count those that run before an arrival."""

    def __init__(self) -> None:
        self._keys: list[_Key] = []
        self._preferences: list[_Preference] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, request: Waiting) -> None:
        """Add a request's keys."""
        insort(self._keys, request.key)
        insort(self._preferences, request.preference)

    def discard(self, request: Waiting) -> None:
        """Remove a request's keys, if they are present."""
        at = bisect_left(self._keys, request.key)
        if at < len(self._keys) and self._keys[at] == request.key:
            del self._keys[at]
            del self._preferences[bisect_left(self._preferences, request.preference)]

    def by_class(self) -> tuple[int, int]:
        """Return how many requests are interactive, and how many are bulk."""
        interactive = bisect_left(self._keys, (Priority.BULK, -math.inf, 0))
        return interactive, len(self._keys) - interactive

    def before(self, priority: Priority, deadline: float) -> int:
        """Return how many requests are before an arrival of this class and deadline."""
        return bisect_right(self._keys, (priority, deadline, 1 << 62))

    def preferred_to(self, priority: Priority, haste: int, turn: float) -> int:
        """Return how many requests are preferred to an arrival of this class, haste and turn."""
        return bisect_right(self._preferences, (priority, haste, turn, math.inf, 0))

    def delays(
        self, priority: Priority, deadline: float, elsewhere: int, pace: Callable[[], Pace]
    ) -> bool:
        """Return whether an arrival makes one of its class late, of those with later deadlines.

        So many run `elsewhere` before it.
        """
        return _delays(self._keys, priority, deadline, elsewhere, pace)


def _delays(
    keys: Sequence[_Key],
    priority: Priority,
    deadline: float,
    elsewhere: int,
    pace: Callable[[], Pace],
) -> bool:
    """Return whether an arrival makes one of its class late, of those with later deadlines."""
    start = bisect_right(keys, (priority, deadline, 1 << 62))
    end = bisect_left(keys, (priority + 1, -math.inf, 0))
    behind = [key[1] for key in keys[start:end]]
    return bool(behind) and delays_beyond(behind, elsewhere + start, pace())
