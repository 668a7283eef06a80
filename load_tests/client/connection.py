"""A lightweight HTTP/1.1 client: one write per request, keep-alive, bounded, no retries.

It runs on the same machine as the server that it measures. It is therefore only an
`asyncio.Protocol` with httptools and decodes headers on demand; a general HTTP client would use a
tenth of a core.
"""

import asyncio
from dataclasses import dataclass, field
from typing import cast

import httptools

MAX_RESPONSE_BYTES = 4 << 20  # /metrics of two versions with 1,000 classes


class MalformedResponse(Exception):
    """The server sent something that is not HTTP, or more than MAX_RESPONSE_BYTES."""


@dataclass(slots=True)
class Response:
    """One HTTP response."""

    status: int = 0
    raw_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    keep_alive: bool = False

    def header(self, name: str) -> str | None:
        """Return the last value of a header, or None; `name` in lower case."""
        wanted = name.encode("latin-1")
        for key, value in reversed(self.raw_headers):
            if key.lower() == wanted:
                return value.decode("latin-1")
        return None


class Connection(asyncio.Protocol):
    """One keep-alive connection that carries one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Response] | None = None
        self._reusable = False
        self._vanishing = False
        self._expect_response()

    @property
    def usable(self) -> bool:
        """Whether another request can be sent on it."""
        return self._reusable and self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes) -> Response:
        """Send one request and wait for its answer.

        Raises ConnectionResetError if the server closes the connection, MalformedResponse if the
        response is not HTTP.
        """
        transport = self._open_transport()
        self._expect_response()
        self._answer = self._loop.create_future()
        transport.write(request)
        try:
            response = await self._answer
        finally:
            self._answer = None
        self._reusable = response.keep_alive
        return response

    async def send_and_vanish(self, request: bytes, stay_s: float) -> None:
        """Send one request, wait `stay_s`, and disconnect whether or not an answer has arrived.

        Raises ConnectionResetError if the server had already closed the connection.
        """
        transport = self._open_transport()
        self._vanishing = True
        transport.write(request)
        await asyncio.sleep(stay_s)
        self.close()

    def close(self) -> None:
        """Disconnect immediately and drop unsent data."""
        if self._transport is not None:
            self._transport.abort()

    def _open_transport(self) -> asyncio.Transport:
        """Return the transport for one request; not reusable until a whole response was read."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("closed before the request was sent")
        self._reusable = False
        return self._transport

    # Callbacks of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's, though they have the same methods.
        self._transport = cast("asyncio.Transport", transport)
        self._reusable = True

    def data_received(self, data: bytes) -> None:
        if self._vanishing:
            return
        if self._answer is None:  # unexpected bytes: the framing is lost
            self._reusable = False
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError) as error:
            self._fail(MalformedResponse(str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        """Complete a body that ends with the connection; an error for any other response."""
        self._reusable = False
        response = self._response
        framed = response.header("content-length") or response.header("transfer-encoding")
        if self._headers_complete and not framed:
            self.on_message_complete()
        self._fail(ConnectionResetError("closed before the response was complete"))

    # Callbacks of the parser.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._response.raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._headers_complete = True
        self._response.status = self._parser.get_status_code()
        self._response.keep_alive = self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > MAX_RESPONSE_BYTES:
            raise ValueError(f"response body over {MAX_RESPONSE_BYTES} bytes")
        self._body.append(data)

    def on_message_complete(self) -> None:
        response = self._response
        if response.status < 200:  # informational, such as 100 Continue: the answer follows
            self._expect_response()
            return
        response.body = b"".join(self._body)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(response)

    def _expect_response(self) -> None:
        self._response = Response()
        self._headers_complete = False
        self._body: list[bytes] = []
        self._body_bytes = 0

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


class Pool:
    """At most `max_connections` connections to one server; owns and closes them all.

    Without `keep_alive` each request uses a new connection.
    """

    def __init__(
        self, host: str, port: int, max_connections: int, *, keep_alive: bool = True
    ) -> None:
        self._host, self._port = host, port
        self._keep_alive = keep_alive
        self._free = asyncio.Semaphore(max_connections)
        self._idle: list[Connection] = []
        self.opened = 0

    async def acquire(self) -> Connection:
        """Return a connection, waiting while all are in use; each must be released."""
        await self._free.acquire()
        try:
            return self._idle_connection() or await self._connect()
        except BaseException:  # cancellation, too: the slot must be released
            self._free.release()
            raise

    def release(self, connection: Connection) -> None:
        """Keep a connection for the next request, if a whole response was read from it."""
        if self._keep_alive and connection.usable:
            self._idle.append(connection)
        else:
            connection.close()
        self._free.release()

    def close(self) -> None:
        """Close every connection that is not in use."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _idle_connection(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._host, self._port)
        self.opened += 1
        return connection
