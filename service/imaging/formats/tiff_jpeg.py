"""JPEG inside TIFF: each strip or tile is a whole JPEG, which libtiff passes to libjpeg unchecked.

The TIFF supplement allows any JPEG process, but writers use one scan of Huffman-coded DCT. Other
processes cost libjpeg up to a hundred times as much for the same pixels.
"""

from __future__ import annotations

import re

from tidegate.service.errors import UndecodableImage, UnsupportedImageType

_HEADER_BYTES = 1 << 12
_MOST_SEGMENTS = 32
_MARKER = re.compile(rb"[^\xff]*\xff+([^\x00\xff])")
_SOI = b"\xff\xd8"
_SOS = 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_ONE_SCAN = {0xC0, 0xC1}


def check_piece(data: bytes, start: int) -> None:
    """Raise UnsupportedImageType unless the JPEG at `start` has one scan of Huffman-coded DCT.

    Raises UndecodableImage if its frame header and its scan are not near its start.
    """
    components = 0
    at, end = start + 2, start + _HEADER_BYTES
    for _ in range(_MOST_SEGMENTS if data.startswith(_SOI, start) else 0):
        found = _MARKER.match(data, at, end)
        if found is None:
            break
        marker, at = found[1][0], found.end()
        if marker in _FRAMES and (components or marker not in _ONE_SCAN):
            raise UnsupportedImageType(
                "TIFF of progressive or arithmetic JPEG is not supported; send baseline JPEG."
            )
        if marker in _FRAMES:
            components = data[at + 7]
        if marker == _SOS and components and data[at + 2] == components:
            return
        if marker == _SOS or marker < 0xC0:
            break
        at += max(2, int.from_bytes(data[at : at + 2]))
    raise UndecodableImage("The TIFF has a strip or tile that is not a JPEG with one scan.")
