"""Detect truncated files whose missing pixels the decoder does not report.

If a PNG's data stream ends early, or a TIFF lists too few strips, Pillow leaves the missing pixels
black. If a JPEG lacks data before its end marker, libjpeg fills the missing pixels with grey and
warns, but Pillow drops the warning. `jpeg` reads the warning; only the first one is available, so
`with_filler` detects a cut that an earlier warning hides. The decoders of the other formats report
missing data.

Not detected:
- a progressive JPEG that ends between two scans: it is a complete image of lower quality;
- a cut JPEG whose missing bits affect no pixel, or whose last codes libjpeg misreads without a
  warning (8 of 34,000 random cuts; 237 if an earlier warning hid that of the cut);
- a cut that such a warning hides, in a JPEG too expensive to be decoded three times;
- codes of a JPEG that were replaced by other valid codes;
- cuts of JPEGs inside TIFF, because libtiff does not pass on libjpeg's warnings;
- damage of a JPEG that nvJPEG decodes, unless nvJPEG rejects it or the end marker is missing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import Image
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, PLANAR_CONFIGURATION, TiffImageFile

from tidegate.service.errors import UndecodableImage
from tidegate.service.imaging.geometry import Size
from tidegate.service.imaging.structure import EOI, SOS, header_segments, later_segments

_FILLER = bytes(at * 151 % 251 for at in range(1, 33))  # many different codes, without FF
_RESTARTS = [bytes((0xFF, 0xD0 + number)) for number in range(8)]
_SEPARATE_PLANES = 2
_PIECE_BYTES = 1 << 16
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# (first column, first row, step across, step down) of the passes of an interlaced PNG
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def stored_size(image: TiffImageFile) -> Size:
    """Return (width, height) of a TIFF before any orientation is applied."""
    return image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]


def check_tiles(image: TiffImageFile) -> None:
    """Raise UndecodableImage if the strips or tiles of an opened TIFF do not cover the image."""
    width, height = stored_size(image)
    planes = 1
    if (
        image.tile[0].codec_name == "raw"
        and image.tag_v2.get(PLANAR_CONFIGURATION) == _SEPARATE_PLANES
    ):
        planes = len(image.getbands())
    boxes = [tile.extents or (0, 0, 0, 0) for tile in image.tile]
    covered = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
    if covered < planes * width * height:
        raise UndecodableImage("The TIFF data is truncated: strips or tiles are missing.")


def check_rows(image: Image.Image, data: bytes) -> None:
    """Raise UndecodableImage if `data`, the PNG that `image` was decoded from, ends early.

    Rows are decoded in order and missing rows are zero. So only an image whose last row is zero
    is checked, and every interlaced image, whose rows are stored in another order.
    """
    width, height = image.size
    last = image.crop((0, height - 1, width, height))
    if not image.info.get("interlace") and last.getbbox(alpha_only=False) is not None:
        return
    needed = _raw_bytes(data)
    if sum(_inflated(data, needed)) < needed:
        raise UndecodableImage("The PNG data is truncated: rows are missing.")


def with_filler(data: bytes) -> bytes | None:
    """Return the JPEG with extra entropy-coded data before its end marker; None if it has none.

    The extra data does not change a complete image, but it changes the pixels of a truncated one.
    It consists of bytes for the interval that is cut, and of restart markers with bytes for the
    intervals that are missing.
    """
    at = next((end for marker, _, end in header_segments(data) if marker == SOS), len(data))
    for marker, _, end in later_segments(data, at):
        if marker == EOI:
            last = max(data.rfind(restart, at, end) for restart in _RESTARTS)
            following = data[last + 1] + 1 if last >= 0 else 0
            parts = [_FILLER + _RESTARTS[(following + more) % 8] for more in range(8)]
            return b"".join((data[: end - 2].rstrip(b"\xff"), *parts, _FILLER, data[end - 2 :]))
        at = end
    return None


def has_end(data: bytes) -> bool:
    """Return whether a JPEG has an end marker after its first scan begins."""
    at = next((end for marker, _, end in header_segments(data) if marker == SOS), len(data))
    return any(marker == EOI for marker, _, _ in later_segments(data, at))


def _raw_bytes(data: bytes) -> int:
    """Return the uncompressed size of the rows in bytes, each with its filter byte."""
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * _CHANNELS[colour]
    needed = 0
    for left, upper, across, down in _PASSES if interlace else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - upper) // down)
        needed += max(0, rows) * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    return needed


def _inflated(data: bytes, needed: int) -> Iterator[int]:
    """Yield the sizes of decompressed pieces, until `needed` bytes are reached or the data ends."""
    stream = zlib.decompressobj()
    for piece in _compressed_pieces(data):
        while piece and not stream.eof:
            size = len(stream.decompress(piece, _PIECE_BYTES))
            yield size
            needed -= size
            if needed <= 0:
                return  # the remaining data could expand to a thousand times its size
            piece = stream.unconsumed_tail
    yield len(stream.flush())  # no input is left, so this is a few kilobytes at most


def _compressed_pieces(data: bytes) -> Iterator[bytes]:
    at = 8
    while len(head := data[at : at + 8]) == 8:
        start, at = at + 8, at + 12 + int.from_bytes(head[:4])
        if head[4:] == b"IDAT":
            for piece in range(start, at - 4, _PIECE_BYTES):
                yield data[piece : min(piece + _PIECE_BYTES, at - 4)]
