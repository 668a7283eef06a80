"""Limits on the open and half-closed connections of a client address."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

MAX_HALF_CLOSED = 8  # half-closed connections of one address at a time
_CROWD_S = 1.0  # if there are more, every end of input closes its connection for this long


class Connections:
    """Open connections, by client address."""

    def __init__(self, max_per_client: float = math.inf, max_in_all: float = math.inf) -> None:
        self._max_per_client = max_per_client
        self._max_in_all = max_in_all
        self._open: Counter[str] = Counter()
        self.in_all = 0

    def open(self, client: str, is_proxy: bool = False) -> bool:
        """Count a new connection; beyond the limit, return False and do not count it.

        A trusted proxy is many clients, so only the limit of all connections applies to it.
        """
        most = math.inf if is_proxy else self._max_per_client
        if self._open.get(client, 0) >= most or self.in_all >= self._max_in_all:
            return False
        self._open[client] += 1
        self.in_all += 1
        return True

    def of(self, client: str) -> int:
        """Return how many connections a client has."""
        return self._open.get(client, 0)

    def close(self, client: str) -> None:
        """Remove a closed connection from the count."""
        self.in_all -= 1
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]


class HalfClosed:
    """Connections whose client has ended its input and may still read.

    If an address has too many of them, its clients are assumed to have disconnected. Addresses are
    counted separately, so that one does not affect the others.
    """

    def __init__(self) -> None:
        self._transports: dict[str, set[asyncio.Transport]] = {}
        self._crowd_until: dict[str, float] = {}  # by address; the earliest end is first

    def admit(self, client: str, transport: asyncio.Transport, now: float) -> bool:
        """Return whether to keep this connection. Beyond the limit, close all of its address."""
        self._forget_crowds(now)
        if client in self._crowd_until:
            return False
        ours = self._transports.setdefault(client, set())
        if len(ours) < MAX_HALF_CLOSED:
            ours.add(transport)
            return True
        self._crowd_until[client] = now + _CROWD_S
        for other in self._transports.pop(client):
            other.abort()
        return False

    def forget(self, client: str, transport: asyncio.Transport) -> None:
        """Remove a closed connection."""
        if ours := self._transports.get(client):
            ours.discard(transport)
            if not ours:
                del self._transports[client]

    def _forget_crowds(self, now: float) -> None:
        while self._crowd_until:
            client = next(iter(self._crowd_until))
            if now < self._crowd_until[client]:
                break
            del self._crowd_until[client]
