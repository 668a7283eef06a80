"""Golden probes: committed photographs, and versions of them in modes that decoders get wrong.

Every build generates these versions again; the same Pillow gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tidegate.models.probes.photographs import PHOTOS

_ORIENTATION = 0x0112


def golden_probes(photos: Iterable[Path] = PHOTOS) -> dict[str, bytes]:
    """Return the probe files by their name in the bundle."""
    files = {path.name: path.read_bytes() for path in photos}
    files |= {
        "rocket-exif-6.jpg": _turned_jpeg(files["rocket.jpg"]),
        "coffee-cmyk.jpg": _cmyk_jpeg(files["coffee.png"]),
        "chelsea-palette.png": _transparent_palette_png(files["chelsea.png"]),
        "camera-16-bit.png": _sixteen_bit_png(files["camera.png"]),
    }
    return {f"golden/{name}": content for name, content in files.items()}


def _turned_jpeg(photo: bytes) -> bytes:
    """Return a JPEG stored rotated, which EXIF orientation 6 turns upright."""
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    return _saved(_open(photo).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=90)


def _cmyk_jpeg(photo: bytes) -> bytes:
    return _saved(_open(photo).convert("CMYK"), "JPEG", quality=90)


def _transparent_palette_png(photo: bytes) -> bytes:
    """Return a PNG of 64 colours; the most common one is fully transparent."""
    image = _open(photo).quantize(64, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    commonest = int(np.argmax(image.histogram()[:64]))
    return _saved(image, "PNG", transparency=commonest)


def _sixteen_bit_png(photo: bytes) -> bytes:
    """Return grey levels over 0…65535, whose low bytes reveal a wrong scaling."""
    grey = np.asarray(_open(photo).convert("L"), np.uint16)
    return _saved(Image.fromarray(grey * 256 + (255 - grey)), "PNG")


def _open(photo: bytes) -> Image.Image:
    return Image.open(io.BytesIO(photo)).convert("RGB")


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()
