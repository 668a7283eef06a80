"""HTTP/1.1 with what uvicorn leaves out: bounds on a request's head, and word of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024  # request line and headers; proxies stop at 8 to 32 kB
HEAD_TIMEOUT_S = 30.0  # from the first byte, or from connecting
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class Connection:
    """What a request's handler may ask of its connection, without a task that waits for messages.

    It travels in the ASGI scope. Used on the event loop.
    """

    __slots__ = ("body_is_here", "lost", "on_loss")

    KEY = "tidegate.connection"

    def __init__(self) -> None:
        self.body_is_here = False  # the last byte of the request being read has arrived
        self.lost = False
        self.on_loss: set[Callable[[], None]] = set()

    @classmethod
    def of(cls, scope: MutableMapping[str, Any]) -> Connection:
        """Return the connection of this ASGI scope; one that is never lost if the server is
        another's.
        """
        connection: Connection = scope.get(cls.KEY) or cls()
        return connection

    def end(self) -> None:
        """Tell whoever wanted to know that the client has gone."""
        self.lost = True
        for tell in list(self.on_loss):
            tell()


class OneWrite:
    """A response's transport: its head waits for the body's first piece, and goes with it.

    One packet instead of two: each passes through the kernel, and wakes the client.
    """

    __slots__ = ("_cycle", "_head", "_started", "_transport")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._started = False
        self._head = b""

    def write(self, data: bytes) -> None:
        """Write, or hold back the head; what comes before it (100 Continue) goes at once."""
        if self._cycle.response_started and not self._started:
            self._started, self._head = True, data
            return
        self._transport.write(self._head + data)
        self._head = b""

    def close(self) -> None:
        """Close, after what was held back."""
        if self._head:
            self.write(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        """Tell whether the connection is lost or closed."""
        return self._transport.is_closing()


class BoundedHttp(HttpToolsProtocol):
    """A connection that closes when a request's head is too large or takes too long."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._connection = Connection()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it too
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        self._connection.end()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._stop_timer()
        self._in_head, self._head_bytes = True, 0
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_head = False
        self._connection.body_is_here = False
        before = self.cycle
        super().on_headers_complete()  # its task starts after this
        if self.cycle is not before and self.scope["method"] != "HEAD":  # which has no body
            self.cycle.transport = OneWrite(self.cycle)  # type: ignore[assignment]  # all it uses
        self.scope[Connection.KEY] = self._connection  # type: ignore[literal-required]  # ours

    def on_message_complete(self) -> None:
        self._connection.body_is_here = True
        super().on_message_complete()
        # A large last piece has paused reading, and nobody asks for more of this body: a client
        # that leaves is only noticed where something reads.
        self.flow.resume_reading()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
