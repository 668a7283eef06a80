"""Requests in the order they will run, and how many stand before a given one."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

from tidegate.service.batching.policy import Waiting
from tidegate.service.types import Priority

W = TypeVar("W", bound=Waiting)
_Key = tuple[int, float, int]


class DeadlineQueue(Generic[W]):
    """A queue by priority class, then deadline, then arrival. Insert and remove move ≤ n pointers,
    which for the thousands a queue may hold costs less than a heap's bookkeeping of cancellations.
    """

    def __init__(self) -> None:
        self._keys: list[_Key] = []
        self._requests: list[W] = []

    def __len__(self) -> int:
        return len(self._keys)

    def insert(self, request: W) -> None:
        """Put a request where it belongs."""
        at = bisect_left(self._keys, request.key)
        self._keys.insert(at, request.key)
        self._requests.insert(at, request)

    def remove(self, request: W) -> None:
        """Take a request out; raises KeyError when it is not there."""
        at = bisect_left(self._keys, request.key)
        if at == len(self._keys) or self._requests[at] is not request:
            raise KeyError(request.key)
        del self._keys[at], self._requests[at]

    def not_overtaken(self, most: int) -> int:
        """Return how many of the first `most` stand before one that the very first overtook."""
        for index, request in enumerate(self._requests[:most]):
            if request.arrival < self._requests[0].arrival:
                return index
        return min(most, len(self))

    def first(self, most: int) -> list[W]:
        """Return the first `most` requests, which stay in the queue."""
        return self._requests[:most]

    def before(self, priority: Priority, deadline: float) -> list[W]:
        """Return those that go before an arrival of this class and deadline."""
        return self._requests[: bisect_right(self._keys, (priority, deadline, 1 << 62))]

    def take(self) -> Iterator[W]:
        """Yield requests from the head, removing each as it is yielded."""
        while self._keys:
            del self._keys[0]
            yield self._requests.pop(0)


class AdmittedKeys:
    """Only the keys of what waits: answers how many go before an arrival."""

    def __init__(self) -> None:
        self._keys: list[_Key] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, request: Waiting) -> None:
        """Count a request in."""
        insort(self._keys, request.key)

    def discard(self, request: Waiting) -> None:
        """Count a request out, if it is in."""
        at = bisect_left(self._keys, request.key)
        if at < len(self._keys) and self._keys[at] == request.key:
            del self._keys[at]

    def before(self, priority: Priority, deadline: float) -> int:
        """Return how many go before an arrival of this class and deadline."""
        return bisect_right(self._keys, (priority, deadline, 1 << 62))
