"""Limits on the work of reading an image that a limit on its pixels does not cover. Pure.

Empty segments, repeated scans and shared tiles are cheap to send, but expensive for a codec.
A damaged structure is left to the codec; `BoundedReads` limits what is not checked here.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from itertools import chain

from tidegate.service.errors import UndecodableImage, UnsupportedImageType
from tidegate.service.imaging.bounds import at_most, exif_tags
from tidegate.service.imaging.formats.tiff import check as check_tiff

# Pillow parses in Python, up to 4 µs per read, with the interpreter lock held. It needs three reads
# per PNG chunk and four per JPEG segment, so the counts below fit.
MAX_READS = 1 << 15
# Each scan visits every coefficient again. libjpeg's progressive script has 10 scans (18 for
# CMYK) and mozjpeg's search keeps about as many.
MAX_JPEG_SCANS = 64
# The largest profile that ICC allows, 10 MB, needs 160, and a panorama's extended XMP as many.
MAX_JPEG_SEGMENTS = 1_000
# Between all segments together, which Pillow reads byte by byte. Cameras pad by a few bytes at
# most.
MAX_JPEG_PADDING_BYTES = 1 << 12
# A segment contains up to 64 kB of EXIF, PNG and WebP may contain more; Pillow joins segments by
# copying.
MAX_EXIF_BYTES = 1 << 20
# In the first directory of EXIF, or of a multi-picture index. Cameras write some dozens; Pillow
# takes 3 µs per tag.
MAX_EXIF_TAGS = 2_048
# ImageMagick's text form in a PNG: 64 kB of EXIF as hexadecimal digits and line ends.
MAX_EXIF_CHARACTERS = 1 << 18
# Quantization tables and frame headers: usually about 600 bytes. Pillow unpacks each number.
MAX_JPEG_TABLE_BYTES = 1 << 16
# Photoshop writes some dozens.
MAX_PHOTOSHOP_RESOURCES = 1_000
# Pillow takes 5 µs per chunk, in Python. With libpng's chunks of 8 kB the limit equals 67 MB.
MAX_PNG_CHUNKS = 1 << 13
# Each may inflate to 1 MB before Pillow stops; ImageMagick writes about ten.
MAX_PNG_COMPRESSED_CHUNKS = 32
Segment = tuple[int, int, int]  # (marker, start of its content, end)

SOI, EOI, SOS, _APP1, _APP2, _APP13 = 0xD8, 0xD9, 0xDA, 0xE1, 0xE2, 0xED
_NO_LENGTH = {0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}  # that Pillow reads without a length
_QUANTIZATION = 0xDB
_TABLES = {_QUANTIZATION, *range(0xC0, 0xD0), 0xDE} - {0xC4, 0xC8, 0xCC}
# As Pillow reads up to the first scan: junk, FF 00 and any number of FF before a marker.
_MARKER = re.compile(rb"[^\xff]*+(?:\xff++\x00[^\xff]*+)*+\xff++([^\x00\xff])")
# As libjpeg reads entropy-coded data, which contains restart markers.
_MARKER_AFTER_DATA = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")

_COMPRESSED = (b"iCCP", b"zTXt", b"iTXt")
_OS2_HEADER = b"\x0c\0\0\0"  # too short to contain a compression field


class BoundedReads(io.BytesIO):
    """A file that raises UndecodableImage after MAX_READS reads."""

    def __init__(self, kind: str, data: bytes) -> None:
        super().__init__(data)
        self._kind, self._left = kind, MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise UndecodableImage(f"Reading the {self._kind} takes more than {MAX_READS:,} reads.")
        return super().read(size)


def check_structure(kind: str, data: bytes) -> None:
    """Check the parts of a file that could cost a codec far more time than its pixels.

    `kind` is the result of `decode.sniff`. Raises only UndecodableImage or UnsupportedImageType.
    """
    if kind in _CHECKS:
        _CHECKS[kind](data)


def check_exif(kind: str, block: bytes | str) -> None:
    """Raise UndecodableImage if EXIF, raw or as a PNG's hexadecimal text, is slow to parse."""
    if isinstance(block, str):
        at_most(MAX_EXIF_CHARACTERS, len(block), kind, "characters of EXIF")
    else:
        at_most(MAX_EXIF_BYTES, len(block), kind, "bytes of EXIF")
        at_most(MAX_EXIF_TAGS, exif_tags(block.removeprefix(b"Exif\0\0")), kind, "tags of EXIF")


def _check_jpeg(data: bytes) -> None:
    exif: list[bytes] = []
    components: set[int] = set()
    resources = tables = 0
    for marker, start, end in header_segments(data):
        if marker == _APP1 and data.startswith(b"Exif\0\0", start):
            exif.append(data[start + 6 : end])
        elif marker == _APP2 and data.startswith(b"MPF\0", start):
            at_most(MAX_EXIF_TAGS, exif_tags(data[start + 4 : end]), "JPEG", "tags in an index")
        elif marker == _APP13 and data.startswith(b"Photoshop 3.0\0", start):
            resources += data.count(b"8BIM", start, end)
        elif marker in _TABLES:
            tables += end - start
            components = components if marker == _QUANTIZATION else _declared(data, start)
        elif marker == SOS:
            _check_scans(data, (marker, start, end), components)
    block = b"".join(exif)  # as Pillow joins them
    at_most(MAX_EXIF_BYTES, len(block) + 6 * len(exif), "JPEG", "bytes of EXIF")
    at_most(MAX_EXIF_TAGS, exif_tags(block), "JPEG", "tags of EXIF")
    at_most(MAX_PHOTOSHOP_RESOURCES, resources, "JPEG", "Photoshop resources")
    at_most(MAX_JPEG_TABLE_BYTES, tables, "JPEG", "bytes of tables")


def header_segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments as Pillow reads them, up to and including the first start of a scan."""
    at, segments, padding, size = 2, 0, 0, len(data)
    while at < size:
        marker, start = data[at + 1] if data[at] == 0xFF and at + 1 < size else 0, at + 2
        if marker in (0, 0xFF):  # bytes between segments, which few files have
            found = _MARKER.match(data, at, at + 2 + MAX_JPEG_PADDING_BYTES - padding)
            padding += (size if found is None else found.end() - 2) - at
            at_most(MAX_JPEG_PADDING_BYTES, padding, "JPEG", "bytes between segments")
            if found is None:
                return
            marker, start = found[1][0], found.end()
        segments += 1
        at_most(MAX_JPEG_SEGMENTS, segments, "JPEG", "segments")
        if marker < 0xC0:
            return  # Pillow stops here
        at = start if marker in _NO_LENGTH else end_of_segment(data, start)
        yield marker, start + 2, at
        if marker == SOS:
            return


def end_of_segment(data: bytes, start: int) -> int:
    return start + max(2, int.from_bytes(data[start : start + 2]))


def later_segments(data: bytes, at: int) -> Iterator[Segment]:
    """Yield the segments after the first scan's header at `at`, up to the end of the first image.

    A second image or a video may follow. The last segment is a start or end of an image, unless
    the file has none.
    """
    while found := _MARKER_AFTER_DATA.search(data, at):
        marker, start = found[0][1], found.end()
        at = start if marker in (SOI, EOI) else end_of_segment(data, start)
        yield marker, start + 2, at
        if marker in (SOI, EOI):
            return


def _check_scans(data: bytes, first: Segment, components: set[int]) -> None:
    """Raise UndecodableImage for too many scans, or for an end before every component has one."""
    missing, scans = components, 0
    for segments, (marker, start, _) in enumerate(chain((first,), later_segments(data, first[2]))):
        if marker == SOS:
            scans, missing = scans + 1, missing - _scanned(data, start)
        if marker == EOI and missing:
            raise UndecodableImage("The JPEG data is truncated: scans are missing.")
        if marker not in (SOI, EOI):
            at_most(MAX_JPEG_SCANS, scans, "JPEG", "scans")
            at_most(MAX_JPEG_SEGMENTS, segments, "JPEG", "segments")


def _declared(data: bytes, start: int) -> set[int]:
    """Return the identifiers of a frame header's components."""
    first = start + 6
    return set(data[first : first + 3 * int.from_bytes(data[start + 5 : first]) : 3])


def _scanned(data: bytes, start: int) -> set[int]:
    """Return the identifiers of the components in a scan."""
    first = start + 1
    return set(data[first : first + 2 * int.from_bytes(data[start:first]) : 2])


def _check_png(data: bytes) -> None:
    at = 8
    compressed = headers = 0
    for _ in range(MAX_PNG_CHUNKS):
        kind = data[at + 4 : at + 8]
        if kind in (b"IEND", b""):
            return
        headers += kind == b"IHDR"
        at_most(1, headers, "PNG", "header")  # Pillow uses the size of the last one
        compressed += kind in _COMPRESSED
        at_most(MAX_PNG_COMPRESSED_CHUNKS, compressed, "PNG", "compressed profiles and texts")
        at += 12 + int.from_bytes(data[at : at + 4])
    raise UndecodableImage(f"The PNG has more than {MAX_PNG_CHUNKS:,} chunks.")


def _check_bmp(data: bytes) -> None:
    # Pillow unpacks these in Python: a 16 MB file would block the interpreter for seconds.
    if data[14:18] != _OS2_HEADER and data[30:34] in (b"\1\0\0\0", b"\2\0\0\0"):
        raise UnsupportedImageType("Run-length encoded BMP is not supported; send it uncompressed.")


_CHECKS: dict[str, Callable[[bytes], None]] = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "TIFF": check_tiff,
    "BMP": _check_bmp,
}
