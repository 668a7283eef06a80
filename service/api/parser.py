"""Parse one request at a time from a stream of bytes, within limits, with llhttp. No I/O.

llhttp parses any number of requests from the bytes that it gets. To stop after one, it gets pieces
that end where a request may end: after the blank line of a head, after the trailers of a chunked
body, or after the number of bytes in Content-Length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import httptools

from tidegate.service.api.framing import (
    MAX_FIELDS,
    ChunkedBody,
    Framing,
    Refusal,
    after_blank_line,
    framing_of,
)

MAX_HEAD_BYTES = 64 * 1024  # request line and headers; proxies allow 8 to 32 kB
MAX_EMPTY_BYTES = 64  # line ends before a request line
# Bytes of a chunked body that are neither data nor usual framing: extensions and trailers. Each
# chunk costs time, so after the first MAX_SHORT_CHUNKS the usual framing is in proportion to the
# data.
MAX_CHUNK_OVERHEAD = 16 * 1024
MAX_SHORT_CHUNKS = 65_536
_PER_CHUNK = 16  # bytes of framing allowed for each of them: size, two line ends, an extension
_FRAMING_PER_BYTE = 0.5  # bytes of framing allowed for each byte of data afterwards


class Events(Protocol):
    """The callbacks of a parser."""

    def on_head(self) -> None: ...

    def on_body(self, body: bytes) -> None: ...

    def on_end(self) -> None: ...


class RequestParser:
    """Calls `events` for one request after another; `feed` returns at the end of each request.

    After `on_head` the attributes describe the request. Header names are in lower case.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self._llhttp = httptools.HttpRequestParser(self)
        self._head_left = MAX_HEAD_BYTES
        self._body_left = 0
        self._chunks = ChunkedBody()
        self._overhead = 0.0  # see MAX_CHUNK_OVERHEAD
        self._short_chunks = 0  # pieces of data so far
        self._has_begun = False  # a byte of the request line has been parsed
        self._tail = b""  # the last bytes of the head, which may be part of a blank line
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
        """Return the number of missing bytes of a body with Content-Length; 0 if chunked."""
        return self._body_left

    def close(self) -> None:
        """Drop all references; the parser must not be used afterwards."""
        del self._events, self._llhttp  # both reference this object: break the cycles
        self.headers = []

    def feed(self, data: bytes | bytearray, start: int) -> int:
        """Parse from `start` to the end of the request or of `data`, and return that index.

        Raises Refusal; the parser must not be used afterwards.
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
        if self.in_head:
            end = after_blank_line(data, start, self._tail)
            self._tail = b"" if end < len(data) else (self._tail + data[max(start, end - 3) :])[-3:]
            return end
        if self.framing.chunked:
            return self._chunks.end(data, start)
        return min(len(data), start + self._body_left)

    def _parse(self, piece: bytes | bytearray | memoryview, size: int) -> None:
        self.is_between = False
        if not self.in_head:
            self._body_left -= size
            self._give(piece)
            if self.framing.chunked and not self.in_head:
                self._overhead = max(0.0, self._overhead + size)
                if self._overhead > MAX_CHUNK_OVERHEAD:
                    raise Refusal("Chunks are too short, or their extensions or trailers too long.")
            return
        self._head_left -= size
        if self._head_left < 0:
            raise Refusal(f"The request head has more than {MAX_HEAD_BYTES:,} bytes.", 431)
        self._give(piece)
        if self.in_head:
            self._check_fields()
            if not self._has_begun and MAX_HEAD_BYTES - self._head_left > MAX_EMPTY_BYTES:
                raise Refusal(f"More than {MAX_EMPTY_BYTES} bytes of empty lines before a request.")

    def _give(self, piece: bytes | bytearray | memoryview) -> None:
        try:
            self._llhttp.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._ignore_upgrade()
        except httptools.HttpParserError as error:
            raise _refusal_of(error) from None

    def _check_fields(self) -> None:
        if len(self.headers) > MAX_FIELDS:
            raise Refusal(f"The request head has more than {MAX_FIELDS} fields.", 431)

    def _ignore_upgrade(self) -> None:
        """Continue after a head with an Upgrade header: a new parser reads the body.

        llhttp stops at such a head and treats the following bytes as the other protocol.
        """
        if self.in_head:  # it had no body
            self._llhttp = httptools.HttpRequestParser(self)
        else:
            self._llhttp = httptools.HttpRequestParser(_BodyEvents(self.on_body, self._end_detour))
            self._llhttp.feed_data(self.framing.as_head())

    def _end_detour(self) -> None:
        self._llhttp = httptools.HttpRequestParser(self)
        self._end()

    # Callbacks of llhttp

    def on_message_begin(self) -> None:
        """Clear the previous request."""
        self._has_begun = True
        self.target, self.headers = b"", []

    def on_url(self, part: bytes) -> None:
        """Append a part of the request target."""
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Append a header field; trailers are dropped."""
        if self.in_head:
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """Check the head and pass it on."""
        self._check_fields()
        self.version = self._llhttp.get_http_version()
        self.method = self._llhttp.get_method().decode("ascii")
        self.framing = framing_of(self.version, self.headers)
        if self.method == "CONNECT":
            raise Refusal("This server is not a proxy.", 405)
        self.keep_alive = self.version != "1.0" and self._llhttp.should_keep_alive()
        self._body_left, self._tail = self.framing.length, b""
        if self.framing.chunked:
            self._chunks, self._overhead, self._short_chunks = ChunkedBody(), 0.0, 0
        self._events.on_head()  # may raise Refusal while `in_head` is true
        self.in_head = False

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body."""
        if self.framing.chunked:
            self._short_chunks += 1
            short = self._short_chunks <= MAX_SHORT_CHUNKS
            self._overhead -= len(body) + (_PER_CHUNK if short else _FRAMING_PER_BYTE * len(body))
        self._events.on_body(body)

    def on_message_complete(self) -> None:
        """End the request, unless llhttp skips its body because of an upgrade."""
        if not (self._llhttp.should_upgrade() and (self.framing.chunked or self.framing.length)):
            self._end()

    def _end(self) -> None:
        self.is_between = self.in_head = True
        self._has_begun, self._head_left, self._tail = False, MAX_HEAD_BYTES, b""
        self._events.on_end()


class _BodyEvents:
    """Callbacks of llhttp for a body whose head was read by another parser."""

    def __init__(self, on_body: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self.on_body = on_body
        self.on_message_complete = on_end


def _refusal_of(error: httptools.HttpParserError) -> Refusal:
    """Return the Refusal that a callback raised, or one with llhttp's message.

    Raises any other error of a callback, because it is a bug.
    """
    if isinstance(error, httptools.HttpParserCallbackError) and error.__context__ is not None:
        if isinstance(error.__context__, Refusal):
            return error.__context__
        raise error.__context__
    return Refusal(f"Invalid HTTP/1.1: {error}.")
