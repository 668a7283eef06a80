"""Queues in the order in which requests run, with counts of the requests before an arrival."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

from tidegate.service.batching.policy import Waiting
from tidegate.service.types import Priority

W = TypeVar("W", bound=Waiting)
_Key = tuple[int, float, int]


class DeadlineQueue(Generic[W]):
    """A queue ordered by priority class, then deadline, then arrival.

    Insert and remove move at most n pointers. For the thousands of requests that a queue may
    contain, this costs less than a heap that has to track cancellations.
    """

    def __init__(self) -> None:
        self._keys: list[_Key] = []
        self._requests: list[W] = []

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def head(self) -> W:
        """Return the request that runs first."""
        return self._requests[0]

    def insert(self, request: W) -> None:
        """Insert a request in order."""
        at = bisect_left(self._keys, request.key)
        self._keys.insert(at, request.key)
        self._requests.insert(at, request)

    def remove(self, request: W) -> None:
        """Remove a request; raise KeyError if it is not in the queue."""
        at = bisect_left(self._keys, request.key)
        if at == len(self._keys) or self._requests[at] is not request:
            raise KeyError(request.key)
        del self._keys[at], self._requests[at]

    def not_overtaken(self, most: int) -> int:
        """Count the requests, up to `most`, before the first one that the head has overtaken."""
        for index, request in enumerate(self._requests[:most]):
            if request.arrival < self._requests[0].arrival:
                return index
        return min(most, len(self))

    def first(self, most: int) -> list[W]:
        """Return the first `most` requests, which stay in the queue."""
        return self._requests[:most]

    def before(self, priority: Priority, deadline: float) -> list[W]:
        """Return the requests that run before an arrival of this class and deadline."""
        return self._requests[: bisect_right(self._keys, (priority, deadline, 1 << 62))]

    def take(self) -> Iterator[W]:
        """Yield requests from the head, and remove each when it is yielded."""
        while self._keys:
            del self._keys[0]
            yield self._requests.pop(0)


class AdmittedKeys:
    """The sort keys of admitted requests, to count those that run before an arrival."""

    def __init__(self) -> None:
        self._keys: list[_Key] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, request: Waiting) -> None:
        """Add a request's key."""
        insort(self._keys, request.key)

    def discard(self, request: Waiting) -> None:
        """Remove a request's key, if it is present."""
        at = bisect_left(self._keys, request.key)
        if at < len(self._keys) and self._keys[at] == request.key:
            del self._keys[at]

    def by_class(self) -> tuple[int, int]:
        """Return how many requests are interactive, and how many are bulk."""
        interactive = bisect_left(self._keys, (Priority.BULK, -math.inf, 0))
        return interactive, len(self._keys) - interactive

    def before(self, priority: Priority, deadline: float) -> int:
        """Return how many requests run before an arrival of this class and deadline."""
        return bisect_right(self._keys, (priority, deadline, 1 << 62))
