"""The most expensive files of each format to decode, generated on demand.

They are within the default limits: 25 million pixels, 16 MiB.
"""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from load_tests.fuzz import formats

SIDE = 5000
Builder = Callable[[int], bytes]


@cache
def worst(name: str, side: int = SIDE) -> bytes:
    """Return the worst image of this name, `side` × `side`; one of WORST."""
    return WORST[name](side)


@cache
def near(name: str) -> bytes:
    """Return the large image of this name that is decoded like small ones; one of NEAR."""
    builder, side = NEAR[name]
    return builder(side)


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan (luma) until it has `scans` scans."""
    data = _plain(side, "RGB", "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + data[-2:]


def _noise(side: int, kind: str, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return _saved(Image.fromarray(pixels), kind, **options)


def _plain(side: int, mode: str, kind: str, **options: object) -> bytes:
    image = Image.new("RGB", (side, side), (90, 30, 200)).convert(mode)
    return _saved(image, kind, **options)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _png_interlaced(side: int) -> bytes:
    """Return an interlaced PNG of 16-bit RGBA zeros, every row with the slowest filter."""
    packer, packed = zlib.compressobj(1), []
    for left, upper, across, down in formats.ADAM7:
        columns, rows = -(-(side - left) // across), -(-(side - upper) // down)
        packed += [packer.compress(b"\4" + bytes(8 * columns)) for _ in range(rows)]
    header = struct.pack(">IIBBBBB", side, side, 16, formats.RGBA, 0, 0, 1)
    pixels = b"".join([*packed, packer.flush()])
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return formats.PNG_SIGNATURE + b"".join(formats.png_chunk(*chunk) for chunk in chunks)


def _webp_lossy(side: int) -> bytes:
    return _noise(side, "WEBP", method=0, quality=20)


def _tiff(compression: str, mode: str = "RGB") -> Builder:
    return lambda side: _plain(side, mode, "TIFF", compression=compression)


def _gif(side: int) -> bytes:
    return _plain(side, "P", "GIF", transparency=3, disposal=2)


# Files that a server with limits may still decode.
ACCEPTED: dict[str, Builder] = {
    "jpeg-baseline": lambda side: _noise(side, "JPEG", quality=60),
    "jpeg-progressive": lambda side: _plain(side, "CMYK", "JPEG", progressive=True),
    "jpeg-scans": lambda side: jpeg_of_scans(side, 50),
    "png-interlaced": _png_interlaced,
    "png-chunks": lambda side: formats.png((4, 4), before=[(b"teSt", b"")] * 8_000),
    "webp-lossless": lambda side: formats.webp_lossless(side, side),
    "webp-lossy": _webp_lossy,
    "gif": _gif,
    "bmp": lambda side: _plain(side, "1", "BMP"),
    "tiff-lzma": _tiff("lzma"),
    "tiff-group4": _tiff("group4", "1"),
    "tiff-rgba": _tiff("tiff_adobe_deflate", "RGBA"),
}
# Files whose cost is out of proportion to their size: such a server rejects them.
REJECTED: dict[str, Builder] = {
    "jpeg-arithmetic": lambda side: formats.arithmetic_jpeg(side, 64),
    "gif-wide-frame": lambda side: formats.gif((1, 1), (65535, 65535), 2),
}
WORST = ACCEPTED | REJECTED
# The most expensive accepted file of each format.
WORST_OF_FORMAT = ("jpeg-scans", "png-interlaced", "webp-lossy", "gif", "bmp", "tiff-rgba")
# The largest images that the service decodes like small ones, in its threads.
NEAR: dict[str, tuple[Builder, int]] = {
    "jpeg": (ACCEPTED["jpeg-scans"], 1370),
    "png": (ACCEPTED["png-interlaced"], 1380),
    "webp": (ACCEPTED["webp-lossy"], 1510),
    "gif": (ACCEPTED["gif"], 1890),
    "bmp": (ACCEPTED["bmp"], 3850),
    "tiff": (ACCEPTED["tiff-group4"], 2100),
}
