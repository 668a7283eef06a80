"""One request at a time out of a stream of bytes, with bounds; llhttp parses. Knows no connection.

llhttp parses all that it is given, any number of requests. So it is given pieces, each of which
ends where a request may end: after the blank line of a head or of a chunked body, or after as many
bytes as Content-Length says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import httptools

from tidegate.service.api.framing import MAX_FIELDS, Framing, Refusal, after_blank_line, framing_of

MAX_HEAD_BYTES = 64 * 1024  # request line and headers; proxies stop at 8 to 32 kB
MAX_CHUNK_OVERHEAD = 16 * 1024  # chunk extensions and trailers, beyond what chunks need
_PER_CHUNK = 16  # bytes of framing allowed for each chunk: size, two line ends, a short extension


class Events(Protocol):
    """Who uses a parser."""

    def on_head(self) -> None: ...

    def on_body(self, body: bytes) -> None: ...

    def on_end(self) -> None: ...


class RequestParser:
    """Calls `events` for one request after another; each `feed` ends with the request.

    After `on_head` the fields describe the request: names in lower case, values as they came.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self._llhttp = httptools.HttpRequestParser(self)
        self._head_left = MAX_HEAD_BYTES
        self._body_left = 0
        self._overhead = 0  # bytes of a chunked body that are neither data nor usual framing
        self._tail = b""  # of what was parsed, while it may hold part of a blank line
        self.is_between = True  # no byte of the next request has been parsed
        self.in_head = True  # also between requests
        self.method = ""
        self.target = b""
        self.version = ""
        self.keep_alive = False
        self.headers: list[tuple[bytes, bytes]] = []
        self.framing = Framing()

    @property
    def body_left(self) -> int:
        """Bytes still to come of a body with a length; 0 if chunked."""
        return self._body_left

    def close(self) -> None:
        """Forget all that it has and whom it informs; it must not be used any more."""
        del self._events, self._llhttp  # llhttp has this object, and so has who uses it
        self.headers = []

    def feed(self, data: bytes | bytearray, start: int) -> int:
        """Parse from `start` to the end of the request or of `data`; return where that is.

        Raises Refusal, after which this parser must not be used.
        """
        size = len(data)
        while start < size:
            end = self._end_of_piece(data, start)
            self._parse(data if end - start == size else memoryview(data)[start:end], end - start)
            start = end
            if self.is_between:
                break
        return start

    def _end_of_piece(self, data: bytes | bytearray, start: int) -> int:
        if self.in_head or self.framing.chunked:
            end = after_blank_line(data, start, self._tail)
            self._tail = b"" if end < len(data) else (self._tail + data[max(start, end - 3) :])[-3:]
            return end
        return min(len(data), start + self._body_left)

    def _parse(self, piece: bytes | bytearray | memoryview, size: int) -> None:
        self.is_between = False
        if not self.in_head:
            self._body_left -= size
            self._give(piece)
            if self.framing.chunked and not self.in_head:
                self._overhead = max(0, self._overhead + size)
                if self._overhead > MAX_CHUNK_OVERHEAD:
                    raise Refusal("Chunk extensions or trailers are too long.")
            return
        self._head_left -= size
        if self._head_left < 0:
            raise Refusal(f"The head has more than {MAX_HEAD_BYTES:,} bytes.", 431)
        self._give(piece)
        if self.in_head:
            self._check_fields()

    def _give(self, piece: bytes | bytearray | memoryview) -> None:
        try:
            self._llhttp.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._ignore_upgrade()
        except httptools.HttpParserError as error:
            raise _refusal_of(error) from None

    def _check_fields(self) -> None:
        if len(self.headers) > MAX_FIELDS:
            raise Refusal(f"The head has more than {MAX_FIELDS} fields.", 431)

    def _ignore_upgrade(self) -> None:
        """Go on after a head that offers another protocol: a fresh parser reads the body.

        llhttp stops at such a head and takes what follows for the other protocol.
        """
        if self.in_head:  # it had no body
            self._llhttp = httptools.HttpRequestParser(self)
        else:
            self._llhttp = httptools.HttpRequestParser(_BodyEvents(self.on_body, self._end_detour))
            self._llhttp.feed_data(self.framing.as_head())

    def _end_detour(self) -> None:
        self._llhttp = httptools.HttpRequestParser(self)
        self._end()

    # What llhttp calls

    def on_message_begin(self) -> None:
        """Forget the request before."""
        self.target, self.headers = b"", []

    def on_url(self, part: bytes) -> None:
        """Take a part of the request target."""
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header field; trailers are dropped."""
        if self.in_head:
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """Check the head and hand it over."""
        self._check_fields()
        self.version = self._llhttp.get_http_version()
        self.method = self._llhttp.get_method().decode("ascii")
        self.framing = framing_of(self.version, self.headers)
        if self.method == "CONNECT":
            raise Refusal("This server is not a proxy.", 405)
        self.keep_alive = self.version != "1.0" and self._llhttp.should_keep_alive()
        self._body_left, self._overhead, self._tail = self.framing.length, 0, b""
        self._events.on_head()  # may raise Refusal, which is then the head's
        self.in_head = False

    def on_body(self, body: bytes) -> None:
        """Hand over a piece of the body."""
        if self.framing.chunked:
            self._overhead -= len(body) + _PER_CHUNK
        self._events.on_body(body)

    def on_message_complete(self) -> None:
        """End the request, unless llhttp skips its body for an upgrade."""
        if not (self._llhttp.should_upgrade() and (self.framing.chunked or self.framing.length)):
            self._end()

    def _end(self) -> None:
        self.is_between = self.in_head = True
        self._head_left, self._tail = MAX_HEAD_BYTES, b""
        self._events.on_end()


class _BodyEvents:
    """What llhttp calls for a body whose head another parser has read."""

    def __init__(self, on_body: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self.on_body = on_body
        self.on_message_complete = on_end


def _refusal_of(error: httptools.HttpParserError) -> Refusal:
    """Return what a callback raised, or what llhttp says.

    Raises the callback's error if it is a bug.
    """
    if isinstance(error, httptools.HttpParserCallbackError) and error.__context__ is not None:
        if isinstance(error.__context__, Refusal):
            return error.__context__
        raise error.__context__
    return Refusal(f"This is not HTTP/1.1: {error}.")
