"""Decode the elements of an input tensor: length-prefixed or base64 images, and pixel values."""

from __future__ import annotations

import asyncio
import struct

import numpy as np
from numpy.typing import NDArray

from tidegate.service.api.json_image import decode_base64
from tidegate.service.errors import BadRequest

_LENGTH = struct.Struct("<I")
_BRACKETS = b"[] \t\r\n"
_BETWEEN_TEXTS = b"[], \t\r\n"
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


async def base64_elements(data: bytes, count: int, name: str) -> list[bytes]:
    """Return the `count` elements of a BYTES tensor in JSON: base64 strings, nested or not.

    Raises BadRequest.
    """
    if b"\\" in data:  # some libraries write "/" as "\/"; no other escape is base64
        data = data.replace(b"\\/", b"/")
    found = data.count(b'"') // 2
    if found != count:
        raise _wrong_count(name, count, found)
    parts = data.split(b'"')
    if any(part.strip(_BETWEEN_TEXTS) for part in parts[::2]):
        raise BadRequest(f"The data of input {name!r} must be base64 strings.")
    del data
    elements = []
    for index, part in enumerate(parts[1::2]):
        text = part.decode("latin-1")  # anything outside ASCII is not base64
        elements.append(await decode_base64(text, f"Element {index} of input {name!r}"))
    return elements


async def uint8_elements(data: bytes, count: int, name: str) -> NDArray[np.uint8]:
    """Return the `count` numbers of a UINT8 tensor in JSON, nested or not. Raises BadRequest."""
    text = data.translate(None, _BRACKETS)
    del data
    found = text.count(b",") + 1 if text else 0
    if found != count:
        raise _wrong_count(name, count, found)
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


def _wrong_count(name: str, count: int, found: int) -> BadRequest:
    return BadRequest(f"Input {name!r} has {found:,} elements, but its shape says {count:,}.")
