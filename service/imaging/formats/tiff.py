"""TIFF: the size from its first directory, limits on that directory, and the cost of decoding."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from tidegate.service.errors import UndecodableImage, UnsupportedImageType
from tidegate.service.imaging.bounds import at_most
from tidegate.service.imaging.formats.tiff_jpeg import check_piece
from tidegate.service.imaging.geometry import Size
from tidegate.service.imaging.work import Found, Work

# 50 million RGB pixels are 18,300 strips of 8 kB, libtiff's default, or 12,200 tiles of 64 × 64.
MAX_TIFF_PIECES = 20_000
# If uncompressed, Pillow reads each strip in Python, 7 µs. With 8 kB each the limit equals 67 MB.
MAX_TIFF_RAW_PIECES = 1 << 13
# Each is a separate JPEG, whose header is checked here. Strips of 8 or 16 rows make some hundreds.
MAX_TIFF_JPEG_PIECES = 1 << 12
# Raw photographs and maps have about a hundred; Pillow takes 8 µs per tag.
MAX_TIFF_TAGS = 1_024
# Pillow creates an object for each. A transfer function has 3 × 65,536, the strips 2 × 20,000.
MAX_TIFF_VALUES = 1 << 18

Entry = tuple[int, int, int, int]  # (tag, type, number of values, the value or its offset)

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _STRIP_ROWS = 256, 257, 258, 259, 277, 278
_TILE_WIDTH, _TILE_HEIGHT, _PLANES = 322, 323, 284
_LAYOUT = {_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES, _STRIP_ROWS, _TILE_WIDTH, _TILE_HEIGHT, _PLANES}
_OFFSETS, _COUNTS = (273, 324), (279, 325)  # of strips and of tiles
_PIECES = {*_OFFSETS, *_COUNTS}
_ONCE = _LAYOUT | _PIECES | {_BITS}
_COLOUR_MAP = 320
_SHORT, _LONG = 3, 4
_OPAQUE = {1, 2, 7}  # bytes, text and undefined: one object for all values
_RAW, _OLD_JPEG, _JPEG = 1, 6, 7
_MOST_SAMPLES, _MOST_BITS = 6, 32  # Pillow's maximum

_FIXED_S = 5e-4
_PIXEL_S = 4e-9
_TAG_S = 9e-6
_RAW_PIECE_S = 8e-6
# Seconds per byte of pixels, and per byte of the file, by compression.
_COSTS: dict[int, tuple[float, float]] = {
    _RAW: (0.5e-9, 0.5e-9),
    2: (100e-9, 0.0),  # the three CCITT compressions: eight pixels per byte
    3: (100e-9, 0.0),
    4: (130e-9, 0.0),
    5: (2.2e-9, 2e-9),  # LZW
    _JPEG: (2e-9, 20e-9),
    8: (2.0e-9, 7e-9),  # deflate
    32946: (2.0e-9, 7e-9),
    32773: (0.6e-9, 0.6e-9),  # PackBits
    34925: (5e-9, 54e-9),  # LZMA
    50000: (1.5e-9, 0.3e-9),  # Zstandard
}
_UNKNOWN_COST = (10e-9, 80e-9)


def read(data: bytes) -> Found:
    """Return the size, and the work. With tiles, the size is that of all tiles together.

    libtiff unpacks whole tiles, even if only a small part of them belongs to the image.
    """
    entries = list(_entries(data))
    layout = _layout(data, entries)
    if not {_WIDTH, _HEIGHT} <= layout.keys():
        raise ValueError("no TIFF header")
    size = layout[_WIDTH], layout[_HEIGHT]
    if {_TILE_WIDTH, _TILE_HEIGHT} <= layout.keys():
        columns, rows = _pieces(layout)
        size = columns * max(1, layout[_TILE_WIDTH]), rows * max(1, layout[_TILE_HEIGHT])
    return Found((size,), _work(data, entries, layout, size))


def check(data: bytes) -> None:
    """Raise UndecodableImage or UnsupportedImageType for a directory beyond the limits."""
    entries = list(_entries(data))
    layout = _layout(data, entries)
    compression = layout.get(_COMPRESSION, _RAW)
    most = {_RAW: MAX_TIFF_RAW_PIECES, _JPEG: MAX_TIFF_JPEG_PIECES}
    pieces = most.get(compression, MAX_TIFF_PIECES)
    values = 0
    for tag, kind, count, _ in entries:
        if tag in _PIECES:
            at_most(pieces, count, "TIFF", "strips or tiles")
        if kind not in _OPAQUE or tag == _COLOUR_MAP:
            values += count
    at_most(MAX_TIFF_VALUES, values, "TIFF", "numbers in its tags")
    columns, rows = _pieces(layout)
    at_most(pieces, columns * rows, "TIFF", "strips or tiles")
    if compression == _OLD_JPEG:
        raise UnsupportedImageType(
            "TIFF compressed with old-style JPEG is not supported; "
            "send LZW, Deflate or uncompressed."
        )
    if compression == _JPEG:
        for start in set(_values(data, entries, _OFFSETS)):
            check_piece(data, start)


def _entries(data: bytes) -> Iterable[Entry]:
    """Return the entries of the first directory, in either byte order."""
    order = _order(data)
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
    except struct.error:
        return ()
    at_most(MAX_TIFF_TAGS, count, "TIFF", "tags")
    there = min(count, (len(data) - start - 2) // 12)
    return struct.iter_unpack(f"{order}HHII", data[start + 2 : start + 2 + 12 * there])


def _order(data: bytes) -> str:
    return "<" if data.startswith(b"II") else ">"


def _layout(data: bytes, entries: Iterable[Entry]) -> dict[int, int]:
    """Return the numbers that define the size and the layout of the image, by tag.

    Each tag must occur at most once and be a single number, because Pillow and libtiff interpret
    other forms differently. The lists of pieces and of depths must also occur at most once, because
    every list is read.
    """
    layout: dict[int, int] = {}
    seen: set[int] = set()
    for tag, kind, count, value in entries:
        if tag in _ONCE and tag in seen:
            raise UndecodableImage(f"The TIFF contains tag {tag} more than once.")
        seen.add(tag)
        if tag not in _LAYOUT:
            continue
        if count != 1 or kind not in (_SHORT, _LONG):
            raise UndecodableImage(f"Tag {tag} of the TIFF is not a single number.")
        high_half = kind == _SHORT and data.startswith(b"MM")
        layout[tag] = value >> 16 if high_half else value & 0xFFFF if kind == _SHORT else value
    return layout


def _pieces(layout: dict[int, int]) -> Size:
    """Return the number of (columns, rows) of tiles, or of one column of strips."""
    width, height = layout.get(_WIDTH, 0), layout.get(_HEIGHT, 0)
    tile_width = layout.get(_TILE_WIDTH, width)
    tile_height = layout.get(_TILE_HEIGHT, layout.get(_STRIP_ROWS, height))
    return -(-width // max(1, tile_width)), -(-height // max(1, tile_height))


def _values(data: bytes, entries: Iterable[Entry], tags: Iterable[int]) -> Iterator[int]:
    """Yield the values of these tags that are in the file, at most MAX_TIFF_PIECES of each."""
    order = _order(data)
    for tag, kind, count, value in entries:
        if tag not in tags or kind not in (_SHORT, _LONG):
            continue
        letter, width = ("H", 2) if kind == _SHORT else ("I", 4)
        if count * width <= 4:
            yield from struct.unpack_from(
                f"{order}{count}{letter}", struct.pack(f"{order}I", value)
            )
            continue
        there = min(count, MAX_TIFF_PIECES, max(0, len(data) - value) // width)
        yield from struct.unpack_from(f"{order}{there}{letter}", data, value)


def _work(data: bytes, entries: list[Entry], layout: dict[int, int], size: Size) -> Work:
    pixels = size[0] * size[1]
    bits = min(_MOST_BITS, max(_values(data, entries, (_BITS,)), default=1))
    unpacked = pixels * min(_MOST_SAMPLES, layout.get(_SAMPLES, 1)) * bits / 8
    # Strips may share their bytes, so the sum of their sizes can exceed that of the file.
    packed = min(unpacked * 2, sum(_values(data, entries, _COUNTS)))
    compression = layout.get(_COMPRESSION, _RAW)
    by_pixels, by_file = _COSTS.get(compression, _UNKNOWN_COST)
    columns, rows = _pieces(layout)
    alpha = layout.get(_SAMPLES, 1) in (2, 4)
    held = 3e-4 + len(entries) * _TAG_S + pixels * (9e-9 if alpha else 1e-9)
    held += columns * rows * _RAW_PIECE_S if compression == _RAW else 0
    seconds = _FIXED_S + held + pixels * _PIXEL_S + unpacked * by_pixels + packed * by_file
    return Work(seconds, held, int(10 * pixels + unpacked) + (1 << 22))
