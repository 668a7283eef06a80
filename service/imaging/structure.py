"""Bounds on the work of reading an image that its pixels do not bound. Pure: bytes in, or an error.

What costs a codec time here is cheap to send: empty segments, repeated scans, shared tiles.
A damaged structure is the codec's to judge; `BoundedReads` bounds what cannot be followed here.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterable, Iterator

from service.errors import UndecodableImage, UnsupportedImageType
from service.imaging.geometry import Size

# Pillow parses in Python and pays by the read, up to 4 µs each. libpng's pieces of 8 kB take
# three reads: 100,000 are a PNG of 270 MB, a GIF comment of 12 MB, a JPEG of 25,000 segments.
MAX_READS = 100_000
# Each scan visits every coefficient again. libjpeg's progressive script has 10 scans (18 for
# CMYK) and mozjpeg's search keeps about as many.
MAX_JPEG_SCANS = 64
# A 10 MB profile, the largest ICC allows, takes 160, and a panorama's extended XMP about as many.
MAX_JPEG_SEGMENTS = 1_000
# Between two segments: Pillow reads it byte by byte. Cameras pad by a few bytes, if at all.
MAX_JPEG_PADDING_BYTES = 1 << 16
# One segment holds 64 kB of EXIF, PNG and WebP may hold more; Pillow joins segments by copying.
MAX_EXIF_BYTES = 1 << 20
# Quantization tables and frame headers: about 600 bytes in all, yet Pillow unpacks each number.
MAX_JPEG_TABLE_BYTES = 1 << 16
# Photoshop writes some dozens.
MAX_PHOTOSHOP_RESOURCES = 1_000
# Pillow handles each in Python; libpng's pixels in pieces of 8 kB would be 160 MB.
MAX_PNG_CHUNKS = 20_000
# Each may inflate to 1 MB before it turns out to be damaged; ImageMagick writes about ten.
MAX_PNG_COMPRESSED_CHUNKS = 128
# libtiff's default strip of 8 kB makes 18,300 of 50 million RGB pixels; tiles of 64 × 64, 12,200.
MAX_TIFF_PIECES = 20_000
# libtiff's own limit; raw photographs and maps have about a hundred.
MAX_TIFF_TAGS = 4_096
# Pillow makes an object of each. A transfer function has 3 × 65,536, the strips 2 × 20,000.
MAX_TIFF_VALUES = 1 << 18

Segment = tuple[int, int, int]  # (marker, start of its content, end)
Entry = tuple[int, int, int, int]  # (tag, type, number of values, the value or its offset)

SOI, _EOI, SOS, _APP1, _APP13 = 0xD8, 0xD9, 0xDA, 0xE1, 0xED
_ALONE = {0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}  # those Pillow reads without a length
_TABLES = {0xDB, *range(0xC0, 0xD0), 0xDE} - {0xC4, 0xC8, 0xCC}
# As Pillow does on its way to the first scan: junk, FF 00 and any number of FF before a marker.
_MARKER = re.compile(rb"[^\xff]*+(?:\xff++\x00[^\xff]*+)*+\xff++([^\x00\xff])")
# As libjpeg does among entropy-coded data, where restarts belong to the data.
_MARKER_AFTER_DATA = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")

_COMPRESSED = (b"iCCP", b"zTXt", b"iTXt")
_OS2_HEADER = b"\x0c\0\0\0"  # too short to name a compression

_WIDTH, _HEIGHT, _SAMPLES, _STRIP_ROWS, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 277, 278, 322, 323
_LAYOUT = {_WIDTH, _HEIGHT, _SAMPLES, _STRIP_ROWS, _TILE_WIDTH, _TILE_HEIGHT}
_PIECES = {273, 279, 324, 325}  # offsets and byte counts, of strips and of tiles
_COLOUR_MAP = 320
_SHORT, _LONG = 3, 4
_OPAQUE = {1, 2, 7}  # bytes, text and undefined stay one object


class BoundedReads(io.BytesIO):
    """A file that raises UndecodableImage at the read after the last of MAX_READS."""

    def __init__(self, kind: str, data: bytes) -> None:
        super().__init__(data)
        self._kind, self._left = kind, MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise UndecodableImage(f"Reading the {self._kind} takes more than {MAX_READS:,} steps.")
        return super().read(size)


def check_structure(kind: str, data: bytes) -> None:
    """Refuse the parts of a file that would cost a codec far more than pixels do.

    `kind` is what `decode.sniff` found. Raises UndecodableImage or UnsupportedImageType, only.
    """
    if kind in _CHECKS:
        _CHECKS[kind](data)


def tiff_grid(data: bytes) -> Size | None:
    """Return the size of a TIFF, of its tiles side by side if it has tiles, None if it has no size.

    libtiff unpacks whole tiles, however little of them is shown.
    """
    layout = _layout(data, _entries(data))
    if not {_WIDTH, _HEIGHT} <= layout.keys():
        return None
    if not {_TILE_WIDTH, _TILE_HEIGHT} <= layout.keys():
        return layout[_WIDTH], layout[_HEIGHT]
    columns, rows = _pieces(layout)
    return columns * layout[_TILE_WIDTH], rows * layout[_TILE_HEIGHT]


def _at_most(limit: int, count: int, kind: str, what: str) -> None:
    if count > limit:
        raise UndecodableImage(f"The {kind} has more than {limit:,} {what}.")


def _check_jpeg(data: bytes) -> None:
    exif = resources = tables = 0
    for marker, start, end in header_segments(data):
        if marker == _APP1 and data.startswith(b"Exif\0\0", start):
            exif += end - start
        elif marker == _APP13 and data.startswith(b"Photoshop 3.0\0", start):
            resources += data.count(b"8BIM", start, end)
        elif marker in _TABLES:
            tables += end - start
        elif marker == SOS:
            _check_scans(data, end)
    _at_most(MAX_EXIF_BYTES, exif, "JPEG", "bytes of EXIF")
    _at_most(MAX_PHOTOSHOP_RESOURCES, resources, "JPEG", "Photoshop resources")
    _at_most(MAX_JPEG_TABLE_BYTES, tables, "JPEG", "bytes of tables")


def header_segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments as Pillow will see them, the first start of a scan being the last."""
    at, segments = 2, 0
    while at < len(data):
        found = _MARKER.match(data, at, at + MAX_JPEG_PADDING_BYTES)
        if found is None:
            padding = len(data) - at
            return _at_most(MAX_JPEG_PADDING_BYTES, padding, "JPEG", "bytes between two segments")
        segments += 1
        _at_most(MAX_JPEG_SEGMENTS, segments, "JPEG", "segments")
        marker, start = found[1][0], found.end()
        if marker < 0xC0:
            return None  # Pillow gives up here
        at = start if marker in _ALONE else end_of_segment(data, start)
        yield marker, start + 2, at
        if marker == SOS:
            return None
    return None


def end_of_segment(data: bytes, start: int) -> int:
    return start + max(2, int.from_bytes(data[start : start + 2]))


def _check_scans(data: bytes, at: int) -> None:
    """Count the scans of the first image alone: a second one or a film may follow its end."""
    scans, segments = 1, 0
    while found := _MARKER_AFTER_DATA.search(data, at):
        marker = found[0][1]
        if marker in (SOI, _EOI):
            return
        segments, scans = segments + 1, scans + (marker == SOS)
        _at_most(MAX_JPEG_SCANS, scans, "JPEG", "scans")
        _at_most(MAX_JPEG_SEGMENTS, segments, "JPEG", "segments")
        at = end_of_segment(data, found.end())


def _check_png(data: bytes) -> None:
    at, compressed = 8, 0
    for _ in range(MAX_PNG_CHUNKS):
        kind = data[at + 4 : at + 8]
        if kind in (b"IEND", b""):
            return
        compressed += kind in _COMPRESSED
        _at_most(MAX_PNG_COMPRESSED_CHUNKS, compressed, "PNG", "compressed profiles and texts")
        at += 12 + int.from_bytes(data[at : at + 4])
    raise UndecodableImage(f"The PNG has more than {MAX_PNG_CHUNKS:,} chunks.")


def _check_bmp(data: bytes) -> None:
    # Pillow unpacks these in Python: one 16 MB file would hold the interpreter for seconds.
    if data[14:18] != _OS2_HEADER and data[30:34] in (b"\1\0\0\0", b"\2\0\0\0"):
        raise UnsupportedImageType("Run-length encoded BMP is not decoded.")


def _check_tiff(data: bytes) -> None:
    entries = list(_entries(data))
    values = 0
    for tag, kind, count, _ in entries:
        if tag in _PIECES:
            _at_most(MAX_TIFF_PIECES, count, "TIFF", "strips or tiles")
        if kind not in _OPAQUE or tag == _COLOUR_MAP:
            values += count
    _at_most(MAX_TIFF_VALUES, values, "TIFF", "numbers in its tags")
    columns, rows = _pieces(_layout(data, entries))
    _at_most(MAX_TIFF_PIECES, columns * rows, "TIFF", "strips or tiles")


def _entries(data: bytes) -> Iterable[Entry]:
    """Return the entries of the first directory, in either byte order."""
    order = "<" if data.startswith(b"II") else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
    except struct.error:
        return ()
    _at_most(MAX_TIFF_TAGS, count, "TIFF", "tags")
    there = min(count, (len(data) - start - 2) // 12)
    return struct.iter_unpack(f"{order}HHII", data[start + 2 : start + 2 + 12 * there])


def _layout(data: bytes, entries: Iterable[Entry]) -> dict[int, int]:
    """Return the numbers that give the size and the cut of the image, by tag.

    Each at most once and plain: Pillow and libtiff differ on what else they read, and take.
    """
    layout: dict[int, int] = {}
    for tag, kind, count, value in entries:
        if tag not in _LAYOUT:
            continue
        if tag in layout or count != 1 or kind not in (_SHORT, _LONG):
            raise UndecodableImage(f"The TIFF does not give tag {tag} as one number, once.")
        high_half = kind == _SHORT and data.startswith(b"MM")
        layout[tag] = value >> 16 if high_half else value & 0xFFFF if kind == _SHORT else value
    return layout


def _pieces(layout: dict[int, int]) -> Size:
    """Return the number of (columns, rows) of tiles, or of one column of strips."""
    width, height = layout.get(_WIDTH, 0), layout.get(_HEIGHT, 0)
    tile_width = layout.get(_TILE_WIDTH, width)
    tile_height = layout.get(_TILE_HEIGHT, layout.get(_STRIP_ROWS, height))
    return -(-width // max(1, tile_width)), -(-height // max(1, tile_height))


_CHECKS: dict[str, Callable[[bytes], None]] = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "TIFF": _check_tiff,
    "BMP": _check_bmp,
}
