"""Descriptors that travel from the process of the engine to a front end, one per packet."""

from __future__ import annotations

import array
import socket
import struct
from collections import Counter
from collections.abc import Callable
from enum import IntEnum

from tidegate.service.api.crowd import Connections

NONE_FREE = -1
_FORM = struct.Struct("<BI")
_FD = array.array("i").itemsize


class Kind(IntEnum):
    """What a descriptor is."""

    CONNECTION = 1  # with its number
    RING = 2  # a memory of slots


def hand_over(to: socket.socket, kind: Kind, number: int, descriptor: int) -> None:
    """Send a copy of a descriptor. Raises BlockingIOError if the other side does not read."""
    socket.send_fds(to, [_FORM.pack(kind, number)], [descriptor], socket.MSG_DONTWAIT)


def take_over(source: socket.socket) -> tuple[int, int, int] | None:
    """Return a kind, a number and a descriptor; None if the other side has closed.

    The descriptor is NONE_FREE if this process can have no more: it is closed then. Raises
    BlockingIOError if nothing has arrived.
    """
    data, ancillary, _, _ = source.recvmsg(_FORM.size, socket.CMSG_SPACE(_FD))
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[:_FD])
    if not data:
        return None
    what, number = _FORM.unpack(data)
    return what, number, descriptors[0] if descriptors else NONE_FREE


class DealtConnections(Connections):
    """The connections of a front end: another process has counted them, and hears of their end.

    Those of one address are interchangeable. A connection over TLS is closed and opened once more
    after its handshake, so that ends are reported at the end of a turn of the loop.
    """

    def __init__(self, on_closed: Callable[[int], None], call_soon: Callable[..., object]) -> None:
        """`on_closed` gets the number of each connection that was closed."""
        super().__init__()
        self._on_closed = on_closed
        self._call_soon = call_soon
        self._numbers: dict[str, list[int]] = {}
        self._arriving: Counter[str] = Counter()  # taken over, and not opened yet

    def arrive(self, client: str, number: int) -> None:
        """Note a connection before it is opened."""
        self._numbers.setdefault(client, []).append(number)
        self._arriving[client] += 1

    def fail(self, client: str) -> None:
        """Note that a connection will not be opened."""
        self._opened(client)
        self._reconcile(client)

    def open(self, client: str, is_proxy: bool = False) -> bool:
        """Count a connection; it is within the limits."""
        self._opened(client)
        return super().open(client, is_proxy)

    def close(self, client: str) -> None:
        """Remove a closed connection from the count."""
        super().close(client)
        self._call_soon(self._reconcile, client)

    def _opened(self, client: str) -> None:
        if self._arriving[client]:
            self._arriving[client] -= 1

    def _reconcile(self, client: str) -> None:
        numbers = self._numbers.get(client, [])
        while len(numbers) > self.of(client) + self._arriving[client]:
            self._on_closed(numbers.pop())
        if not numbers:
            self._numbers.pop(client, None)
            self._arriving.pop(client, None)
