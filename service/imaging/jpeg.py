"""A JPEG's pixels straight from libjpeg-turbo: the same as Pillow's, sooner.

Pillow asks libjpeg for a line at a time and copies each into its image. Here libjpeg writes into
one array, in the layout that `_resample` reads.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from service.imaging.geometry import Size

Rgba = NDArray[np.uint8]  # [height, width, 4]; the fourth is 255
Source = Image.Image | Rgba  # an upright RGB image, as its decoder left it


def decode_rgba(data: bytes, size: Size) -> Rgba | None:
    """Decode the first image of a JPEG of `size` (width, height) and three components.

    Returns None when libjpeg errs or warns, or finds another size: what to make of such data is
    Pillow's to say.
    """
    pixels = np.empty((size[1], size[0], 4), np.uint8)
    try:
        made = simplejpeg.decode_jpeg(data, "RGBA", strict=True, buffer=pixels)
    except ValueError:  # also for an image that is larger than the buffer
        return None
    return pixels if made.shape == pixels.shape else None


def size_of(source: Source) -> Size:
    """Return (width, height)."""
    return source.size if isinstance(source, Image.Image) else (source.shape[1], source.shape[0])


def as_image(source: Source) -> Image.Image:
    """Return the image itself, or its pixels copied into one of mode RGB."""
    if isinstance(source, Image.Image):
        return source
    return Image.frombytes("RGB", size_of(source), source.data, "raw", "RGBX")
