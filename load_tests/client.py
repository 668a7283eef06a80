"""A light HTTP/1.1 client: one write per request, keep-alive, bounded, no retries.

It shares the machine with the server that it measures, so it is a bare `asyncio.Protocol` with
httptools: a general HTTP client would take a tenth of a core for itself.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httptools

MAX_RESPONSE_BYTES = 1 << 20


class MalformedResponse(Exception):
    """The server sent something that is not HTTP, or more than MAX_RESPONSE_BYTES."""


@dataclass
class Response:
    """What came back; header names in lower case, a repeated header keeps its last value."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    keep_alive: bool = False


class _Exchange:
    """One response being parsed: the callback target of httptools."""

    def __init__(self, answer: asyncio.Future[Response]) -> None:
        self.answer = answer
        self.response = Response()
        self.parser = httptools.HttpResponseParser(self)
        self.headers_complete = False
        self._body: list[bytes] = []
        self._body_bytes = 0

    def feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError) as error:
            self.fail(MalformedResponse(str(error)))

    def finish_at_eof(self) -> None:
        """The connection closed: fine for a body framed by the close, a fault otherwise."""
        framed = self.response.headers.keys() & {"content-length", "transfer-encoding"}
        if self.headers_complete and not framed:
            self.on_message_complete()
        self.fail(ConnectionResetError("closed before the response was complete"))

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.response.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.headers_complete = True
        self.response.status = self.parser.get_status_code()
        self.response.keep_alive = self.parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > MAX_RESPONSE_BYTES:
            raise ValueError(f"response body over {MAX_RESPONSE_BYTES} bytes")
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self.response.status < 200:  # 100 Continue and its kin: the answer is still to come
            self.response, self.headers_complete = Response(), False
            return
        self.response.body = b"".join(self._body)
        if not self.answer.done():
            self.answer.set_result(self.response)


class Connection(asyncio.Protocol):
    """One keep-alive connection that carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._exchange: _Exchange | None = None
        self._reusable = False

    @property
    def usable(self) -> bool:
        """Whether another request may go out on it."""
        return self._reusable and self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes) -> Response:
        """Send one request and wait for its answer.

        Raises ConnectionResetError when the server hangs up, MalformedResponse when it does not
        speak HTTP.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("closed before the request was sent")
        self._reusable = False  # until a whole response has been read
        self._exchange = _Exchange(asyncio.get_running_loop().create_future())
        self._transport.write(request)
        try:
            response = await self._exchange.answer
        finally:
            self._exchange = None
        self._reusable = response.keep_alive
        return response

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # narrows for the type checker
        self._transport = transport
        self._reusable = True

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:  # bytes nobody asked for: the framing is lost
            self._reusable = False
            self.close()
        else:
            self._exchange.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._reusable = False
        if self._exchange is not None:
            self._exchange.finish_at_eof()


class Pool:
    """At most `max_connections` connections to one server; owns and closes them all."""

    def __init__(self, host: str, port: int, max_connections: int) -> None:
        self._host, self._port = host, port
        self._free = asyncio.Semaphore(max_connections)
        self._idle: list[Connection] = []
        self.opened = 0

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection; it comes back only if a whole response was read from it."""
        async with self._free:
            connection = await self._take()
            try:
                yield connection
            finally:
                if connection.usable:
                    self._idle.append(connection)
                else:
                    connection.close()

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.close()
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._host, self._port)
        self.opened += 1
        return connection

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()
