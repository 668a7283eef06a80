"""Decode the elements of an input tensor: length-prefixed or base64 images, and pixel values."""

from __future__ import annotations

import asyncio
import re
import struct
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from tidegate.service.api.json_image import decode_base64
from tidegate.service.errors import BadRequest

Buffer = bytes | memoryview

_LENGTH = struct.Struct("<I")
_BRACKETS = b"[] \t\r\n"
_BETWEEN_TEXTS = re.compile(rb"[\[\], \t\r\n]*")
_QUOTE, _ESCAPE = re.compile(rb'"'), re.compile(rb"\\")
_DIGITS = b"0123456789,"
_COMMA, _ZERO = ord(","), ord("0")
_STEP = 256 * 1024  # characters of numbers between two turns of other requests; about 2 ms


def split_elements(data: memoryview, count: int, name: str) -> list[bytes]:
    """Return the `count` elements of a binary BYTES tensor: each a u32 length and its bytes.

    Raises BadRequest if an element runs past the tensor, or bytes follow the last one.
    """
    elements, at = [], 0
    for index in range(count):
        start = at + _LENGTH.size
        if start > len(data):
            raise BadRequest(
                f"Input {name!r} has {len(data):,} bytes, too few for the length of element "
                f"{index} of {count}."
            )
        (length,) = _LENGTH.unpack_from(data, at)
        at = start + length
        if at > len(data):
            raise BadRequest(
                f"Element {index} of input {name!r} has {length:,} bytes, but only "
                f"{len(data) - start:,} follow."
            )
        elements.append(bytes(data[start:at]))
    if at < len(data):
        raise BadRequest(
            f"{len(data) - at:,} bytes follow the last of the {count} elements of input {name!r}."
        )
    return elements


async def base64_elements(data: Buffer, count: int, name: str) -> list[bytes]:
    """Return the `count` elements of a BYTES tensor in JSON: base64 strings, nested or not.

    `data` is valid JSON. Only one string at a time is copied. Raises BadRequest.
    """
    if _ESCAPE.search(data):  # some libraries write "/" as "\/"; no other escape is base64
        data = bytes(data).replace(b"\\/", b"/")
    quotes = [found.start() for found in islice(_QUOTE.finditer(data), 2 * count + 1)]
    if len(quotes) != 2 * count:
        found = f"more than {count:,}" if len(quotes) > 2 * count else f"{len(quotes) // 2:,}"
        raise _wrong_count(name, count, found)
    view = memoryview(data)
    elements, end = [], 0
    for index in range(count):
        start, after = quotes[2 * index], quotes[2 * index + 1]
        _check_between(view[end:start], name)
        text = str(view[start + 1 : after], "latin-1")  # anything outside ASCII is not base64
        elements.append(await decode_base64(text, f"Element {index} of input {name!r}"))
        end = after + 1
    _check_between(view[end:], name)
    return elements


async def uint8_elements(data: Buffer, count: int, name: str) -> NDArray[np.uint8]:
    """Return the `count` numbers of a UINT8 tensor in JSON, nested or not. Raises BadRequest."""
    text = bytes(data).translate(None, _BRACKETS)
    found = text.count(b",") + 1 if text else 0
    if found != count:
        raise _wrong_count(name, count, f"{found:,}")
    values, done, start = np.empty(count, np.uint8), 0, 0
    while start < len(text):
        end = text.find(b",", start + _STEP)
        end = len(text) if end < 0 else end
        part = _numbers(text[start:end], name)
        values[done : done + len(part)] = part
        done, start = done + len(part), end + 1
        if start < len(text):
            await asyncio.sleep(0)
    return values


def _numbers(text: bytes, name: str) -> NDArray[np.uint8]:
    """Return whole numbers that are separated by commas. Raises BadRequest."""
    # Three commas before the first number, so that each has three characters before its end.
    padded = np.frombuffer(b",,," + text + b",", np.uint8)
    ends = np.flatnonzero(padded == _COMMA)[3:]
    ones, tens, hundreds = padded[ends - 1], padded[ends - 2], padded[ends - 3]
    has_tens = tens != _COMMA
    has_hundreds = has_tens & (hundreds != _COMMA)
    values = (ones - _ZERO).astype(np.int16)
    values += np.where(has_tens, 10 * (tens.astype(np.int16) - _ZERO), 0)
    values += np.where(has_hundreds, 100 * (hundreds.astype(np.int16) - _ZERO), 0)
    longer = has_hundreds & (padded[ends - 4] != _COMMA)
    if (
        text.translate(None, _DIGITS)
        or (ones == _COMMA).any()
        or longer.any()
        or (values > np.iinfo(np.uint8).max).any()
    ):
        raise BadRequest(f"The data of input {name!r} must be whole numbers from 0 to 255.")
    return values.astype(np.uint8)


def _check_between(text: memoryview, name: str) -> None:
    if not _BETWEEN_TEXTS.fullmatch(text):
        raise BadRequest(f"The data of input {name!r} must be base64 strings.")


def _wrong_count(name: str, count: int, found: str) -> BadRequest:
    return BadRequest(f"Input {name!r} has {found} elements, but its shape says {count:,}.")
