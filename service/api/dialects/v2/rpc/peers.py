"""Count the connections of gRPC's clients with those of HTTP.

The library accepts connections by itself, and a server sees only their calls. So a connection
counts for its address while it has a call. `server.py` bounds those without one: in number, all
addresses together, and in time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import grpc

from tidegate.service.api.dialects.v2.rpc.status import retry_metadata
from tidegate.service.api.limits import address_of
from tidegate.service.api.wire import Wire

Peer = tuple[str, int]
_RETRY_AFTER_S = "1"


class Peers:
    """The connections that have calls. Used on the event loop."""

    def __init__(self, wire: Wire) -> None:
        """`wire` has the limits, and the connections of HTTP."""
        self._wire = wire
        self._calls: Counter[Peer | None] = Counter()  # by connection

    @asynccontextmanager
    async def calling(self, rpc: Any) -> AsyncIterator[None]:
        """Count the connection of a call while it lasts; beyond the limit, end the call.

        The call ends with UNAVAILABLE, as a connection of HTTP gets a 503.
        """
        peer = peer_of(rpc.peer())
        if not self._calls[peer] and not self._open(peer):
            self._wire.on_shed()
            await rpc.abort(
                grpc.StatusCode.UNAVAILABLE,
                "overloaded: Too many open connections.",
                retry_metadata(_RETRY_AFTER_S),
            )
        self._calls[peer] += 1
        try:
            yield
        finally:
            self._calls[peer] -= 1
            if not self._calls[peer]:
                del self._calls[peer]
                self._wire.connections.close(address_of(peer))

    def _open(self, peer: Peer | None) -> bool:
        return self._wire.connections.open(address_of(peer), self._wire.is_proxy(peer))


def peer_of(peer: str) -> Peer | None:
    """Return the host and port of `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000`."""
    kind, _, address = unquote(peer).partition(":")
    host, _, port = address.rpartition(":")
    is_ip = kind in ("ipv4", "ipv6") and port.isdigit()
    return (host.strip("[]"), int(port)) if is_ip else None
