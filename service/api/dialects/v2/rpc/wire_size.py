"""Bound the memory of a message before protobuf parses it.

Two bytes may declare an empty message, which takes some sixty bytes in memory. So everything that
is not the data of a tensor may have `_MAX_REST` bytes, as in the JSON of a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tidegate.service.errors import BadRequest

_MAX_REST = 64 * 1024
_MAX_FIELDS = 4096
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_MAX_SHIFT = 63

# Field numbers of ModelInferRequest: its data, and the fields to look into.
_RAW_INPUT_CONTENTS, _INPUTS = 7, 5
_CONTENTS = {5: {8: None}}  # of an input: bytes_contents
_DATA: Mapping[int, Any] = {_RAW_INPUT_CONTENTS: None, _INPUTS: _CONTENTS}


def check_size(message: bytes) -> None:
    """Raise BadRequest if a ModelInferRequest has too much besides its data, or is malformed."""
    rest = len(message) - sum(_data_sizes(memoryview(message), _DATA, [_MAX_FIELDS]))
    if rest > _MAX_REST:
        raise BadRequest(
            f"The request has {rest:,} bytes besides its data; the limit is {_MAX_REST:,}."
        )


def _data_sizes(
    message: memoryview, data: Mapping[int, Any], fields_left: list[int]
) -> Iterator[int]:
    """Yield the size of each field that is data: the value None; a mapping is looked into."""
    at = 0
    while at < len(message):
        fields_left[0] -= 1
        if fields_left[0] < 0:
            raise BadRequest(f"The request has more than {_MAX_FIELDS:,} fields.")
        tag, at = _varint(message, at)
        kind, number = tag & 7, tag >> 3
        size = 0
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise _malformed()
        if at + size > len(message):
            raise _malformed()
        if kind == _BYTES and number in data:
            inner = data[number]
            content = message[at : at + size]
            yield from [size] if inner is None else _data_sizes(content, inner, fields_left)
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, _MAX_SHIFT + 1, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _malformed()


def _malformed() -> BadRequest:
    return BadRequest("The request is not a ModelInferRequest.")
