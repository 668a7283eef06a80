"""Messages between a front end and the process of the engine, for everything that is not hot.

A message has a kind, fields as JSON, and bytes. On the wire: the lengths of JSON and bytes as
little-endian 32-bit numbers, then both. The descriptor of a message is sent on another socket.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

_LENGTHS = struct.Struct("<II")
_MOST_BYTES = 256 << 20  # of one message; a bundle's gate and a picture are far smaller

OnMessage = Callable[[str, dict[str, Any], bytes], None]  # gets kind, fields and bytes


class Channel(asyncio.Protocol):
    """One end of the stream of messages. Used on the event loop."""

    def __init__(self, on_message: OnMessage, on_lost: Callable[[], None]) -> None:
        """`on_lost` is called once, when the other end is gone or has been closed."""
        self._on_message = on_message
        self._on_lost = on_lost
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    async def open(self, connection: socket.socket) -> None:
        """Use a connected unix socket, which belongs to this object from now on."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=connection)

    @property
    def unsent_bytes(self) -> int:
        """Return how much the other end has not read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def send(self, kind: str, content: bytes = b"", **fields: Any) -> None:
        """Send a message; without effect once the other end is lost."""
        if self._transport is not None:
            head = json.dumps([kind, fields], separators=(",", ":")).encode()
            parts = [_LENGTHS.pack(len(head), len(content)), head]
            # asyncio's own loop (Python 3.12 and 3.13) never gets rid of an empty last part: it
            # writes it again and again, and the connection cannot be closed.
            self._transport.writelines([*parts, content] if content else parts)

    def close(self) -> None:
        """Close after what was sent."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Pass on the messages that are complete."""
        self._received += data
        at = 0
        while (end := self._end_of_message(at)) is not None:
            heads, contents = _LENGTHS.unpack_from(self._received, at)
            start = at + _LENGTHS.size
            head = bytes(self._received[start : start + heads])
            content = bytes(self._received[start + heads : start + heads + contents])
            at = end
            kind, fields = json.loads(head)
            self._on_message(kind, fields, content)
        del self._received[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end; after a crash it is an error instead of an end of file."""
        self._transport = None
        self._on_lost()

    def _end_of_message(self, at: int) -> int | None:
        """Return where the message that begins at `at` ends; None if it is not complete."""
        if len(self._received) - at < _LENGTHS.size:
            return None
        heads, contents = _LENGTHS.unpack_from(self._received, at)
        if heads + contents > _MOST_BYTES:
            raise ValueError(f"a message of {heads + contents} bytes")
        end = at + _LENGTHS.size + int(heads) + int(contents)
        return end if end <= len(self._received) else None
