"""HTTP/1.1 on uvicorn's parser and cycle, with a bound in bytes and in time on every connection.

Requests of one connection are parsed one at a time: the parser is given a request's bytes only once
the answer to the one before is complete. What a client sends ahead waits unparsed, up to a bound;
beyond it reading is paused. Reading goes on until there, so that a client that leaves is noticed.
"""

from __future__ import annotations

import asyncio
import math
import urllib.parse
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.connection import Connection
from service.api.exchange import Exchange
from service.api.framing import MAX_FIELDS, Framing, Refusal, after_blank_line, framing_of
from service.api.wire import Wire
from service.errors import BadRequest

__all__ = ["BoundedHttp", "Connection", "bounded_http"]

MAX_HEAD_BYTES = 64 * 1024  # request line and headers; proxies stop at 8 to 32 kB
MAX_CHUNK_OVERHEAD = 16 * 1024  # chunk extensions and trailers, beyond what chunks need
MAX_AHEAD_BYTES = 64 * 1024  # sent before the answer to an earlier request; then reading pauses
MAX_DROPPED_BYTES = 64 * 1024 * 1024  # of a body that nothing reads; then the connection is closed
HEAD_TIMEOUT_S = 30.0  # from the first byte, or from connecting
DROP_TIMEOUT_S = 30.0  # for all of a body that nothing reads
SILENCE_TIMEOUT_S = 5.0  # while a body is dropped, and for the last bytes of an answer to be taken
WRITE_TIMEOUT_S = 30.0  # for a client to read what fills the write buffer
STOP_GRACE_S = 1.0  # quiet time before a stopping server closes an idle connection
HALF_CLOSE_S = 0.25  # end of input this soon after a whole request: the client still reads
_PER_CHUNK = 16  # bytes of framing allowed for each chunk: size, two line ends, a short extension


class BoundedHttp(HttpToolsProtocol):
    """One client connection. `bounded_http` gives it the `wire` it shares with the others.

    `check_time` must be called from time to time: it ends what has waited too long for the client.
    """

    wire: Wire
    cycle: Exchange

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connection = Connection()
        self._framing = Framing()
        self._in_head = True
        self._head_bytes = 0
        self._tail = b""  # of what was parsed, while it may hold part of a blank line
        self._body_left = 0  # bytes of a body with a length
        self._overhead = 0  # bytes of a chunked body that are neither data nor usual framing
        self._unanswered = False  # a handler has a request, and its answer is not complete
        self._answering = False  # likewise, and all of the request has arrived
        self._ahead = bytearray()
        self._deaf = False  # nothing is parsed any more
        self._dropped = 0
        self._input_ended = False
        self._heard = 0.0  # when the last bytes arrived, on the loop's clock as all times here
        self._due = math.inf  # when the client has to have done what is waited for
        self._drop_due = math.inf
        self._write_due = math.inf

    # What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it too
        """Wait for the first head."""
        super().connection_made(transport)
        self._heard = self.loop.time()
        self._due = self._heard + (STOP_GRACE_S if self.wire.stopping else HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what is held, and inform the handler."""
        self._due = self._drop_due = self._write_due = math.inf
        self._deaf = True
        self._ahead = bytearray()
        super().connection_lost(exc)
        self._connection.end()

    def data_received(self, data: bytes) -> None:
        """Parse, keep for later, or drop."""
        self._heard = self.loop.time()
        if self._deaf:
            self._drop(len(data))
        else:
            taken = 0 if self._answering else self._take(data)
            if taken < len(data):
                self._keep(data[taken:])

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn narrows it
        """Keep the connection if the client has only stopped sending; returns False to close it.

        A client that has left and one that has shut down its sending side look the same until
        something is written. The end of input right after a whole request is taken for the
        second, and answered; later, for the first.
        """
        self._input_ended = True
        if not self._unanswered:
            return False
        is_whole = self._answering or self.cycle.fault is not None
        return is_whole and self.loop.time() - self._heard <= HALF_CLOSE_S

    def pause_writing(self) -> None:
        """Give the client a time to read."""
        super().pause_writing()
        self._write_due = self.loop.time() + WRITE_TIMEOUT_S

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        super().resume_writing()
        self._write_due = math.inf

    # What the server calls

    def check_time(self, now: float) -> None:
        """End the connection if the client has not done in time what is waited for."""
        if now < self._due and now < self._write_due:
            return
        if self.flow.read_paused and now < self._write_due:  # it is the handler that does not read
            self._due = now + self.wire.body_stall_s
        elif self._write_due <= now or self._deaf:
            self.transport.abort()
        else:
            self._close()

    def shutdown(self) -> None:
        """Close the connection once it is idle, and has been quiet for a moment."""
        if self._is_idle():
            self._due = min(self._due, self._heard + STOP_GRACE_S)

    # Bytes to the parser

    def _take(self, data: bytes | bytearray) -> int:
        """Parse the rest of one request; return how many bytes it took.

        Done in pieces, each of which ends where a head or a body may end.
        """
        start, size = 0, len(data)
        while start < size and not self._answering and not self._deaf:
            end = self._end_of_piece(data, start)
            self._parse(data if end - start == size else memoryview(data)[start:end])
            start = end
        return start

    def _keep(self, data: bytes) -> None:
        """Keep what was sent ahead, and stop reading if it is much; drop it after a refusal."""
        if self._deaf:
            self._drop(len(data))
            return
        self._ahead += data
        if len(self._ahead) > MAX_AHEAD_BYTES:
            self.flow.pause_reading()

    def _read_on(self) -> None:
        if len(self._ahead) <= MAX_AHEAD_BYTES:
            self.flow.resume_reading()

    def _end_of_piece(self, data: bytes | bytearray, start: int) -> int:
        if self._in_head or self._framing.chunked:
            end = after_blank_line(data, start, self._tail)
            self._tail = b"" if end < len(data) else (self._tail + data[max(start, end - 3) :])[-3:]
            return end
        return min(len(data), start + self._body_left)

    def _parse(self, piece: bytes | bytearray | memoryview) -> None:
        size = len(piece)
        try:
            if self._in_head:
                self._count_head(size)
                self.parser.feed_data(piece)
            else:
                self._body_left -= size
                self.parser.feed_data(piece)
                self._count_overhead(size)
        except httptools.HttpParserUpgrade:
            self._ignore_upgrade()
        except httptools.HttpParserError as error:
            self._refuse(_refusal_of(error))
        except Refusal as refusal:
            self._refuse(refusal)

    def _count_head(self, size: int) -> None:
        if not self._head_bytes:
            self._due = self._heard + HEAD_TIMEOUT_S
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise Refusal(f"The head has more than {MAX_HEAD_BYTES:,} bytes.", 431)

    def _count_overhead(self, size: int) -> None:
        """Bound what is not data in a chunked body; wait for the next bytes of any body."""
        if self._in_head:  # the body is complete
            return
        if self._framing.chunked:
            self._overhead = max(0, self._overhead + size)
            if self._overhead > MAX_CHUNK_OVERHEAD:
                raise Refusal("Chunk extensions or trailers are too long.")
        if self.cycle.response_complete:
            self._due = min(self._drop_due, self._heard + SILENCE_TIMEOUT_S)
            if self._dropped > MAX_DROPPED_BYTES:
                self._close()
        else:
            self._due = self._heard + self.wire.body_stall_s

    def _ignore_upgrade(self) -> None:
        """Go on after a head that offers another protocol: a fresh parser reads the body.

        llhttp stops at such a head and takes what follows for the other protocol.
        """
        if self._answering:  # it had no body
            self.parser = httptools.HttpRequestParser(self)
        else:
            self.parser = httptools.HttpRequestParser(_BodyEvents(self))
            self.parser.feed_data(self._framing.as_head())

    # What the parser calls

    def on_message_begin(self) -> None:
        """Start a request."""
        if self._answering:  # pragma: no cover - pieces end where messages do
            raise Refusal("Two requests were parsed at once.")
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header field; a trailer is dropped."""
        if self._in_head:
            self.headers.append((name.lower(), value.strip(b" \t")))
            if len(self.headers) > MAX_FIELDS:
                raise Refusal(f"The head has more than {MAX_FIELDS} fields.", 431)

    def on_headers_complete(self) -> None:
        """Check the head, and start the handler."""
        version = self.parser.get_http_version()
        self._framing = framing_of(version, self.headers)
        self._complete_scope(version)
        self._in_head, self._tail = False, b""
        self._body_left, self._overhead, self._dropped = self._framing.length, 0, 0
        self._connection.body_is_here = False
        self._due = self._heard + self.wire.body_stall_s
        self.cycle = Exchange(
            self._is_last_answer,
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self._framing.expects_100,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self._unanswered = True
        self._start_asgi_task(self.cycle, self.app)

    def _complete_scope(self, version: str) -> None:
        scope = self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        if scope["method"] == "CONNECT":
            raise Refusal("This server is not a proxy.", 405)
        raw_path, query = _split(self.url)
        path = raw_path.decode("ascii")
        scope["path"] = self.root_path + (urllib.parse.unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        scope["query_string"] = query
        scope[Connection.KEY] = self._connection  # type: ignore[literal-required]  # ours

    def on_body(self, body: bytes) -> None:
        """Hand over a piece of the body, or drop it if the answer is complete."""
        if self._framing.chunked:
            self._overhead -= len(body) + _PER_CHUNK
        cycle = self.cycle
        if cycle.response_complete:
            self._dropped += len(body)
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Wait for the answer, or for the next request if it is complete already."""
        if self.parser.should_upgrade() and (self._framing.chunked or self._framing.length):
            return  # llhttp skips this body; `_ignore_upgrade` reads it
        self._in_head, self._head_bytes, self._tail = True, 0, b""
        self._connection.body_is_here = True
        cycle = self.cycle
        if cycle.response_complete:
            self._wait_for_next()
            return
        cycle.more_body = False
        cycle.message_event.set()
        self._answering, self._due = True, math.inf
        # A large last piece has paused reading; a client that leaves is only noticed by reading.
        self._read_on()

    # Answers and endings

    def on_response_complete(self) -> None:
        """Close, or go on with what was sent ahead, or wait for the next request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        was_answering, self._answering, self._unanswered = self._answering, False, False
        if not self.cycle.keep_alive:
            self._close(more_may_come=not was_answering)
            return
        if not was_answering:  # the rest of the body is dropped
            self.flow.resume_reading()
            self._drop_due = self.loop.time() + DROP_TIMEOUT_S
            self._due = self.loop.time() + SILENCE_TIMEOUT_S
            return
        self._wait_for_next()
        taken = self._take(self._ahead)
        del self._ahead[:taken]
        self._read_on()
        if self._input_ended and not self._answering:
            self._close()

    def _wait_for_next(self) -> None:
        grace = STOP_GRACE_S if self.wire.stopping else self.wire.keep_alive_s
        self._heard = self.loop.time()
        self._due = self._heard + grace

    def _is_idle(self) -> bool:
        return self._in_head and not self._answering and not self._head_bytes

    def _is_last_answer(self) -> bool:
        """Return whether the connection ends with the answer that starts now."""
        cycle = self.cycle
        if cycle.more_body:  # a client that was not asked for its body may send it, or may not
            unread = cycle.waiting_for_100_continue or self._body_left > MAX_DROPPED_BYTES
            return unread or self._deaf or self.wire.draining
        return not self._ahead and (self._input_ended or self.wire.draining)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer bytes that are not HTTP, or leave that to the handler that reads them."""
        self._deaf = True
        cycle = self.cycle
        if self._in_head:
            fields = self.headers or []
            answer = self.wire.refuse(refusal, fields, self.server_state.default_headers)
            self.transport.write(answer)
            self._close(more_may_come=True)
        elif cycle.response_complete:
            self._close()
        else:
            cycle.fault = BadRequest(str(refusal))
            cycle.message_event.set()
            self._due = math.inf

    def _close(self, *, more_may_come: bool = False) -> None:
        """Close the connection; where the client may be sending, only once it has had its answer.

        Bytes that arrive at a closed socket reset the connection, and a reset destroys what the
        client has not read. So our side is closed first, and the rest is read and dropped.
        """
        self._deaf = True
        now = self.loop.time()
        self._due, self._drop_due = now + SILENCE_TIMEOUT_S, now + DROP_TIMEOUT_S
        lingers = more_may_come or self._ahead or self.flow.read_paused
        self._ahead = bytearray()
        if lingers and not self._input_ended and self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > MAX_DROPPED_BYTES:
            self.transport.abort()
        if not self._unanswered:
            self._due = min(self._drop_due, self._heard + SILENCE_TIMEOUT_S)


class _BodyEvents:
    """Hears of one body and nothing else; the next request gets a parser of its own."""

    def __init__(self, protocol: BoundedHttp) -> None:
        self._protocol = protocol
        self.on_body = protocol.on_body

    def on_message_complete(self) -> None:
        self._protocol.parser = httptools.HttpRequestParser(self._protocol)
        self._protocol.on_message_complete()


def _split(target: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a request target. Raises Refusal."""
    if target == b"*":
        return target, b""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserError:
        raise Refusal("The request target is malformed.") from None
    return url.path or b"/", url.query or b""


def _refusal_of(error: httptools.HttpParserError) -> Refusal:
    """Return what a callback raised, or what the parser says."""
    if isinstance(error.__context__, Refusal):
        return error.__context__
    return Refusal(f"This is not HTTP/1.1: {error}.")


def bounded_http(shared: Wire) -> type[BoundedHttp]:
    """Return the protocol class for connections that share `shared`, as uvicorn wants it."""

    class Http(BoundedHttp):
        wire = shared

    return Http
