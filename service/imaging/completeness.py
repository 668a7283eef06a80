"""Pixels that a file lacks and its decoder does not miss: such a file is truncated.

Pillow leaves the rest of the image black where a PNG's data stream ends early, and where a TIFF
lists too few strips. libjpeg paints grey what a JPEG lacks before its end marker, and warns, which
Pillow drops; `jpeg` acts on the warning, and `with_filler` finds what an earlier one hides. Every
other format's decoder reports what is missing.

Not found:
- a progressive JPEG that ends between two scans: that is a whole image of lower quality;
- a cut JPEG whose missing bits make no pixel, or of whose last codes libjpeg makes others without a
  warning (8 of 34,000 random cuts; 237 where an earlier warning hid that of the cut);
- a cut that such a warning hides, in a JPEG too expensive to be decoded three times;
- codes of a JPEG that were replaced by other valid ones;
- JPEGs inside TIFF: libtiff passes no warning of libjpeg's on.
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

_FILLER = bytes(at * 151 % 251 for at in range(1, 33))  # many codes, and no FF
_RESTARTS = [bytes((0xFF, 0xD0 + number)) for number in range(8)]
_SEPARATE_PLANES = 2
_PIECE_BYTES = 1 << 16
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# (first column, first row, step across, step down) of the passes of an interlaced PNG
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


def stored_size(image: TiffImageFile) -> Size:
    """Return (width, height) of a TIFF before any orientation is applied."""
    return image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]


def check_tiles(image: TiffImageFile) -> None:
    """Raise UndecodableImage when the strips or tiles of an opened TIFF do not cover it."""
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
    """Raise UndecodableImage when `data`, a PNG that `image` was decoded from, ends early.

    Rows are decoded in order and missing ones are zero, so only an image whose last row is zero is
    looked into, and an interlaced one, whose rows come in another order.
    """
    width, height = image.size
    last = image.crop((0, height - 1, width, height))
    if not image.info.get("interlace") and last.getbbox(alpha_only=False) is not None:
        return
    needed = _raw_bytes(data)
    if sum(_inflated(data, needed)) < needed:
        raise UndecodableImage("The PNG data is truncated: rows are missing.")


def with_filler(data: bytes) -> bytes | None:
    """Return a JPEG with more entropy-coded data before its end, None if it has no end.

    The decoder of a whole image skips it; that of a truncated one makes other pixels of it. There
    are bytes for the interval that is cut, and restarts with bytes for those that are missing.
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


def _raw_bytes(data: bytes) -> int:
    """Return the size of the rows, uncompressed and each with the byte of its filter."""
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * _CHANNELS[colour]
    needed = 0
    for left, upper, across, down in _PASSES if interlace else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - upper) // down)
        needed += max(0, rows) * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    return needed


def _inflated(data: bytes, needed: int) -> Iterator[int]:
    """Yield the sizes of pieces of the data stream, until `needed` bytes are there or it ends."""
    stream = zlib.decompressobj()
    for piece in _compressed_pieces(data):
        while piece and not stream.eof:
            size = len(stream.decompress(piece, _PIECE_BYTES))
            yield size
            needed -= size
            if needed <= 0:
                return  # what is left may expand to a thousand times its size
            piece = stream.unconsumed_tail
    yield len(stream.flush())  # nothing is unconsumed here: some kilobytes at most


def _compressed_pieces(data: bytes) -> Iterator[bytes]:
    at = 8
    while len(head := data[at : at + 8]) == 8:
        start, at = at + 8, at + 12 + int.from_bytes(head[:4])
        if head[4:] == b"IDAT":
            for piece in range(start, at - 4, _PIECE_BYTES):
                yield data[piece : min(piece + _PIECE_BYTES, at - 4)]
