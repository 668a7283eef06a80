"""The most expensive files of each format that are accepted, made by code and on demand."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from tests.unit.imaging.pictures import encode, noise, png, png_rows

SIDE = 5_000  # 25 megapixels, the default bound
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))


def _plain(side: int, mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (side, side), (90, 30, 200)).convert(mode)


def _noise_jpeg(side: int) -> bytes:
    return encode(noise(side, side), "JPEG", quality=60)


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan, of the luma, until it has `scans`."""
    data = encode(_plain(side), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + data[-2:]


def png_interlaced(side: int) -> bytes:
    """Return an interlaced PNG of 16-bit RGBA zeros, every row with the slowest filter."""
    packer, packed = zlib.compressobj(1), b""
    for left, upper, across, down in (*_PASSES, (0, 1, 1, 2)):
        columns, rows = -(-(side - left) // across), -(-(side - upper) // down)
        row = b"\4" + bytes(8 * columns)
        for _ in range(rows):
            packed += packer.compress(row)
    packed += packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def png_of_chunks() -> bytes:
    rows = png_rows(np.zeros((4, 4, 3), np.uint8))
    return png((4, 4), 8, 2, rows, extra=[(b"teSt", b"")] * 8_000)


def webp_lossless(side: int) -> bytes:
    return encode(_plain(side), "WEBP", method=0)


def webp_lossy(side: int) -> bytes:
    return encode(noise(side, side), "WEBP", lossless=False, method=0, quality=20)


def tiff(side: int, compression: str, mode: str = "RGB") -> bytes:
    return encode(_plain(side, mode), "TIFF", compression=compression)


BUILDERS: dict[str, Callable[[int], bytes]] = {
    "jpeg-baseline": _noise_jpeg,
    "jpeg-scans": lambda side: jpeg_of_scans(side, 50),
    "png-rgba16-interlaced": png_interlaced,
    "png-chunks": lambda side: png_of_chunks(),
    "webp-lossless": webp_lossless,
    "webp-lossy": webp_lossy,
    "gif": lambda side: encode(_plain(side, "P"), "GIF", transparency=3, disposal=2),
    "bmp": lambda side: encode(_plain(side, "P"), "BMP"),
    "tiff-lzma": lambda side: tiff(side, "lzma"),
    "tiff-group4": lambda side: tiff(side, "group4", "1"),
    "tiff-rgba": lambda side: tiff(side, "tiff_adobe_deflate", "RGBA"),
}


@cache
def worst_file(name: str, side: int = SIDE) -> bytes:
    """Return one of BUILDERS' files; 25 megapixels take seconds to make."""
    return BUILDERS[name](side)


def worst_files(side: int = SIDE) -> dict[str, bytes]:
    """Return all of them by name."""
    return {name: worst_file(name, side) for name in BUILDERS}
