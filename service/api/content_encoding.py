"""Decode a request body by its Content-Encoding: gzip and deflate, within a bound on bytes."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator

from tidegate.service.errors import BadRequest, UnsupportedEncoding, UploadTooLarge

ACCEPTED = "gzip, deflate"  # the value of Accept-Encoding in a rejection
_STEP_BYTES = 256 * 1024  # inflated before other requests get their turn; about 0.5 ms
_MAX_MEMBERS = 64  # of a gzip body: each costs a new decompressor
_SHOWN = 40  # characters of a client's text
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


def coding_of(content_encoding: str) -> str:
    """Return the coding of a Content-Encoding header: gzip, deflate, or "" for none.

    Raises UnsupportedEncoding for every other one, and for several.
    """
    coding = content_encoding.strip().lower()
    if coding in ("", "identity"):
        return ""
    if coding in ("gzip", "x-gzip"):
        return "gzip"
    if coding == "deflate":
        return coding
    raise UnsupportedEncoding(
        f"Content-Encoding {content_encoding[:_SHOWN]!r} is not supported; send {ACCEPTED} or none."
    )


async def decode(
    body: bytes, coding: str, max_bytes: int, reserve: Callable[[int], None] | None = None
) -> bytes:
    """Return a body without its coding, as `coding_of` returns it.

    `reserve` is called with all bytes in use before each growth, and may raise. Other requests are
    handled in between, so that inflating never delays them by more than one step. Raises
    UploadTooLarge for more than `max_bytes` decoded bytes, BadRequest for damaged data.
    """
    if not coding:
        return body
    decoded = bytearray()
    for step in _inflate(body, coding):
        if len(decoded) + len(step) > max_bytes:
            raise UploadTooLarge(f"The decoded body has more than {max_bytes:,} bytes.")
        if reserve is not None:
            reserve(len(body) + len(decoded) + len(step))
        decoded += step
        if len(step) == _STEP_BYTES:
            await asyncio.sleep(0)
    return bytes(decoded)


def _inflate(body: bytes, coding: str) -> Iterator[bytes]:
    """Yield the decoded bytes in steps. Raises BadRequest."""
    window = _GZIP if coding == "gzip" else _ZLIB if _is_zlib(body) else _RAW
    left = body
    for _ in range(_MAX_MEMBERS):  # gzip allows several members, one after the other
        stream = zlib.decompressobj(window)
        while not stream.eof:
            try:
                step = stream.decompress(left, _STEP_BYTES)
            except zlib.error:
                raise BadRequest(f"The body is not valid {coding} data.") from None
            left = stream.unconsumed_tail
            if not step and not left and not stream.eof:
                raise BadRequest(f"The {coding} data of the body is truncated.")
            yield step
        left = stream.unused_data
        if not left:
            return
        if coding != "gzip":
            break
    raise BadRequest(f"The body has {len(left):,} bytes after its {coding} data.")


def _is_zlib(body: bytes) -> bool:
    """Return whether a deflate body has the header of RFC 1950; some clients send none."""
    return len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
