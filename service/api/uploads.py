"""The memory for request bodies, shared between clients. No tasks and no timers.

A body that arrives too slowly is *stalled*. When the memory is full, stalled bodies are evicted
(the longest stalled first), then the bodies of clients that use more than their share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from tidegate.service.errors import Overloaded

PROGRESS_BYTES = 8 * 1024  # fewer bytes than this are no progress
STALL_S = 10.0  # a body without progress for this long times out
SHED_AFTER_S = 1.0  # the same while other requests need its memory
_CLIENT_SHARE = 0.75  # most memory of one client; its address may be a proxy for many


def _equal(_: str) -> float:
    return 1.0


class Reservation:
    """The bytes of one body; a context manager that releases them."""

    __slots__ = ("_budget", "_evict", "_marked", "client", "evicted", "held", "since")

    def __init__(self, budget: ByteBudget, client: str) -> None:
        self._budget = budget
        self._evict: Callable[[], None] = _nothing
        self._marked = 0
        self.client = client
        self.held = 0
        self.since = 0.0  # when the last PROGRESS_BYTES were complete
        self.evicted = ""  # the reason for its eviction; "" if it was not evicted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.release(self)

    def expect(self, count: int) -> None:
        """Raise Overloaded if a body of `count` bytes does not fit now. Reserves nothing."""
        self._budget.check(self, count)

    def grow_to(self, count: int) -> None:
        """Reserve `count` bytes in total. Raises Overloaded if they do not fit."""
        more = count - self.held
        if more > 0:
            self._budget.take(self, more)

    @contextmanager
    def arriving(self, evict: Callable[[], None]) -> Iterator[None]:
        """Mark this body as arriving; `evict` is called when it is evicted."""
        self._evict = evict
        self._budget.follow(self)
        try:
            yield
        finally:
            self._budget.unfollow(self)
            self._evict = _nothing

    def renew(self) -> bool:
        """Return whether this body has made progress since the last call, and record it."""
        if self.held - self._marked < PROGRESS_BYTES:
            return False
        self._marked = self.held
        self._budget.follow(self)
        return True

    def end(self, reason: str) -> None:
        """Evict this body; its bytes go to other requests."""
        self.evicted = reason
        self._evict()


class ByteBudget:
    """The bytes of all bodies, in total and per client. Used on the event loop."""

    def __init__(
        self,
        max_bytes: int,
        max_body_bytes: int,
        on_shed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        weight_of: Callable[[str], float] = _equal,
    ) -> None:
        """`on_shed` is called for each body that is rejected or evicted for lack of memory.

        `weight_of` returns a client's weight in the shares of the memory.
        """
        self._weight_of = weight_of
        self._max_bytes = max_bytes
        self._max_client_bytes = max(max_body_bytes, int(_CLIENT_SHARE * max_bytes))
        self._on_shed = on_shed
        self._clock = clock
        self._arriving: dict[Reservation, None] = {}  # the longest stalled first
        self._by_client: dict[str, int] = {}
        self.used = 0

    def reserve(self, client: str) -> Reservation:
        """Return an empty reservation."""
        return Reservation(self, client)

    def take(self, asker: Reservation, count: int) -> None:
        """Add bytes to a reservation, evicting other bodies if needed. Raises Overloaded."""
        if not self._fits(asker.client, count):
            self.check(asker, count)
            for victim, reason in self._victims(asker, count):
                self._on_shed()
                self.release(victim)
                victim.end(reason)
        self.used += count
        asker.held += count
        self._by_client[asker.client] = self._by_client.get(asker.client, 0) + count

    def check(self, asker: Reservation, count: int) -> None:
        """Raise Overloaded if `count` more bytes do not fit, whatever is evicted."""
        if self._fits(asker.client, count):
            return
        freed_own = freed = 0
        for victim, _ in self._victims(asker, count):
            freed += victim.held
            freed_own += victim.held if victim.client == asker.client else 0
        if not self._fits(asker.client, count, freed_own, freed):
            self._on_shed()
            raise Overloaded("The memory for request bodies is full.", 1, "upload-bytes")

    def release(self, reservation: Reservation) -> None:
        """Release a body's bytes."""
        held, client = reservation.held, reservation.client
        self._arriving.pop(reservation, None)
        if held:
            reservation.held = 0
            self.used -= held
            self._by_client[client] -= held
            if not self._by_client[client]:
                del self._by_client[client]

    def follow(self, reservation: Reservation) -> None:
        """Record that an arriving body has just made progress."""
        reservation.since = self._clock()
        self._arriving.pop(reservation, None)
        self._arriving[reservation] = None

    def unfollow(self, reservation: Reservation) -> None:
        """Record that a body has ended or is complete, so that it can no longer be evicted."""
        self._arriving.pop(reservation, None)

    def _fits(self, client: str, count: int, freed_own: int = 0, freed: int = 0) -> bool:
        own = self._by_client.get(client, 0) - freed_own
        return self.used - freed + count <= self._max_bytes and (
            own + count <= self._max_client_bytes
        )

    def _victims(self, asker: Reservation, count: int) -> list[tuple[Reservation, str]]:
        """Return the bodies to evict, with the reasons, so that `count` more bytes fit."""
        chosen: list[tuple[Reservation, str]] = []
        freed_own = freed = 0
        for victim, reason in self._candidates(asker, count):
            own = victim.client == asker.client
            if self._fits(asker.client, count, freed_own, freed):
                break
            if not own and self.used - freed + count <= self._max_bytes:
                continue  # only bodies of the asker's address would make room
            chosen.append((victim, reason))
            freed += victim.held
            freed_own += victim.held if own else 0
        return chosen

    def _candidates(self, asker: Reservation, count: int) -> Iterator[tuple[Reservation, str]]:
        """Yield the bodies that may be evicted, in the order given by this module's docstring."""
        now = self._clock()
        left = dict(self._by_client)
        moving = []
        for body in [r for r in self._arriving if r is not asker and r.held]:
            if now - body.since >= SHED_AFTER_S:
                left[body.client] -= body.held
                yield body, "stalled"
            else:
                moving.append(body)
        clients = {*self._by_client, asker.client}
        per_weight = self._max_bytes / sum(map(self._weight_of, clients))
        if left.get(asker.client, 0) + count > per_weight * self._weight_of(asker.client):
            return
        for body in moving:
            share = per_weight * self._weight_of(body.client)
            if body.client != asker.client and left[body.client] > share:
                left[body.client] -= body.held
                yield body, "share"


def _nothing() -> None:
    """The callback of a body that is not arriving."""
