"""A stream of records on a socket: written once per turn of the event loop, read many at a time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import cast

from tidegate.service.batching.records import Record, RecordReader, pack


class Link(asyncio.Protocol):
    """One end of the stream. Used on the event loop."""

    def __init__(
        self, on_records: Callable[[Iterable[Record]], None], on_lost: Callable[[], None]
    ) -> None:
        """`on_lost` is called once, when the other end is gone or has been closed."""
        self._on_records = on_records
        self._on_lost = on_lost
        self._reader = RecordReader()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    async def open(self, connection: socket.socket) -> None:
        """Use a connected unix socket, which belongs to this object from now on."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=connection)

    def send(self, record: Record) -> None:
        """Send a record at the end of this turn of the loop; without effect once it is lost."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(pack(record))

    def close(self) -> None:
        """Send what is left, and close."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Pass on the records that are complete."""
        self._on_records(self._reader.feed(data))

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end; after a crash it is an error instead of an end of file."""
        self._transport = None
        self._on_lost()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and out:
            self._transport.write(b"".join(out))
