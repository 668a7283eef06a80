"""Images within the usual bounds (25 million pixels, 16 MB) that cost a decoder the most."""

import io
from collections.abc import Callable
from functools import cache

from PIL import Image

from load_tests.fuzz import formats

SIDE = 5000


@cache
def worst(name: str, side: int = SIDE) -> bytes:
    """Return the worst image of this name, `side` × `side`; one of WORST."""
    return WORST[name](side)


def _saved(side: int, mode: str, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side), 128).save(file, kind, **options)
    return file.getvalue()


WORST: dict[str, Callable[[int], bytes]] = {
    "jpeg-arithmetic": lambda side: formats.arithmetic_jpeg(side, 64),
    "jpeg-progressive": lambda side: _saved(side, "CMYK", "JPEG", progressive=True),
    "png-interlaced": lambda side: formats.png((side, side), 16, formats.RGBA, interlaced=True),
    "webp-lossless": lambda side: formats.webp_lossless(side, side),
    "gif": lambda side: _saved(side, "P", "GIF"),
    "gif-wide-frame": lambda side: formats.gif((1, 1), (65535, 65535), 2),
    "bmp": lambda side: _saved(side, "1", "BMP"),
    "tiff": lambda side: _saved(side, "RGB", "TIFF", compression="tiff_lzw"),
}
