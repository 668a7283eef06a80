"""Where a request's head and body end, and which heads are rejected (RFC 9112). Pure functions.

The parser (llhttp, strict) already rejects bare LF, folded fields, space before a colon, invalid
field names and values, repeated Content-Length, and Content-Length with Transfer-Encoding. This
module rejects what llhttp accepts but RFC 9112 forbids, and what this server does not support.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_FIELDS = 128  # header fields of one request; proxies and other servers allow about 100
_BLANK_LINE = b"\r\n\r\n"
_LINE_END = b"\r\n"
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)[;\r]")
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~%!$&'()*+,;=]*)(:[0-9]*)?")  # RFC 3986


class Refusal(Exception):
    """A request that the protocol answers itself, because it cannot reach a handler."""

    def __init__(self, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(slots=True)  # not frozen: a frozen one takes longer to create for each request
class Framing:
    """How long the body of a request is, and whether its client waits for 100 Continue."""

    length: int = 0  # bytes; 0 if chunked
    chunked: bool = False
    expects_100: bool = False

    def as_head(self) -> bytes:
        """Return a request head that makes a parser expect this body and nothing else."""
        if self.chunked:
            return b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        return b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % self.length


def framing_of(version: str, fields: Sequence[tuple[bytes, bytes]]) -> Framing:
    """Return the framing of a request with these header fields, whose names are in lower case.

    Raises Refusal if RFC 9112 requires it.
    """
    if version not in ("1.1", "1.0"):
        raise Refusal(f"HTTP/{version} is not supported; use HTTP/1.1.")
    hosts, host, length, chunked, expects_100 = 0, b"", 0, False, False
    for name, value in fields:
        if name == b"host":
            hosts, host = hosts + 1, value
        elif name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = _is_chunked(version, value)
        elif name == b"expect":
            expects_100 = version == "1.1" and value.lower() == b"100-continue"
    _check_host(version, hosts, host)
    return Framing(length, chunked, expects_100)


def _check_host(version: str, hosts: int, host: bytes) -> None:
    if hosts != 1 and (hosts or version == "1.1"):
        raise Refusal(f"An HTTP/1.1 request must have one Host header; this one has {hosts}.")
    if not _HOST.fullmatch(host):
        raise Refusal("The Host header is malformed.")


def _is_chunked(version: str, coding: bytes) -> bool:
    if version != "1.1":
        raise Refusal("HTTP/1.0 does not support Transfer-Encoding.")
    if coding.lower() != b"chunked":
        raise Refusal("The only supported Transfer-Encoding is chunked.")
    return True


def after_blank_line(data: bytes | bytearray, start: int, tail: bytes) -> int:
    """Return the index after the next blank line from `start` on, or the length of `data`.

    `tail` has the last bytes received before `data`, at most three: the blank line that ends a head
    or a chunked body may be split between two reads.
    """
    if tail:
        split = (tail + data[start : start + 3]).find(_BLANK_LINE)
        if split >= 0:
            return start + split + len(_BLANK_LINE) - len(tail)
    found = data.find(_BLANK_LINE, start)
    return len(data) if found < 0 else found + len(_BLANK_LINE)


class ChunkedBody:
    """Finds the end of a chunked body: the blank line after a chunk of size 0 and its trailers.

    The data of the chunks is skipped, because it may contain any number of blank lines.
    """

    __slots__ = ("_in_trailers", "_left", "_line", "_tail")

    def __init__(self) -> None:
        self._left = 0  # bytes of the current chunk that have not arrived, with its line end
        self._line = b""  # the received part of the line with the size of the next chunk
        self._in_trailers = False
        self._tail = b""  # see `after_blank_line`

    def end(self, data: bytes | bytearray, start: int) -> int:
        """Return the index after the body's last byte, or the length of `data`.

        Raises Refusal if a chunk has no size.
        """
        size = len(data)
        while start < size and not self._in_trailers:
            if self._left:
                skipped = min(self._left, size - start)
                self._left -= skipped
                start += skipped
            else:
                start = self._after_size(data, start)
        return self._end_of_trailers(data, start) if start < size else size

    def _after_size(self, data: bytes | bytearray, start: int) -> int:
        """Return the index after the line with a chunk's size, or the length of `data`."""
        found = data.find(b"\n", start)
        end = len(data) if found < 0 else found + 1
        self._line += data[start:end]
        if found >= 0:
            size = _CHUNK_SIZE.match(self._line)
            if size is None:
                raise Refusal("Invalid HTTP/1.1: a chunk has no size.")
            self._begin(int(size[1], 16))
            self._line = b""
        return end

    def _begin(self, size: int) -> None:
        if size:
            self._left = size + len(_LINE_END)
        else:
            self._in_trailers, self._tail = True, _LINE_END

    def _end_of_trailers(self, data: bytes | bytearray, start: int) -> int:
        end = after_blank_line(data, start, self._tail)
        self._tail = (self._tail + data[max(start, end - 3) : end])[-3:]
        return end
