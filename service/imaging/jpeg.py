"""Decode a JPEG directly with libjpeg-turbo: the same pixels as Pillow, faster, and with warnings.

Pillow requests one line at a time from libjpeg, copies each line into its image, and drops
libjpeg's warnings of missing or corrupt data. This module lets libjpeg write into one array; for
an RGB image its layout is the one that `_resample` reads.
"""

from __future__ import annotations

import io
import re

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from tidegate.service.errors import UndecodableImage
from tidegate.service.imaging.completeness import with_filler
from tidegate.service.imaging.geometry import Box, Size
from tidegate.service.imaging.jpeg_window import AVAILABLE, decode_window

Rgba = NDArray[np.uint8]  # [height, width, 4]; the fourth channel is 255
Source = Image.Image | Rgba  # an upright RGB image, in its decoder's memory layout

# Pillow's mode → (simplejpeg's name of the layout, Pillow's name of it, channels)
_LAYOUTS = {"RGB": ("RGBA", "RGBX", 4), "L": ("GRAY", "L", 1), "CMYK": ("CMYK", "CMYK;I", 4)}
# Warnings after which libjpeg fills missing or corrupt pixels with grey.
DAMAGE = re.compile("premature end|bad Huffman code|instead of RST", re.IGNORECASE)
# The other warnings, with which no pixel is lost. simplejpeg reports only a file's first warning.
_HARMLESS = re.compile(
    "extraneous bytes before marker|unknown JFIF revision|Unknown Adobe color transform"
    "|Invalid SOS parameters|Inconsistent progression|bad ICC marker"
)
_BAND_ROWS = 64


def decode_straight(
    data: bytes, mode: str, size: Size, window: Box | None = None, *, again: bool = True
) -> NDArray[np.uint8] | None:
    """Decode the first image of a JPEG of `size` (width, height) and of Pillow's `mode`.

    With `window` the pixels outside may have no meaning.
    Returns [height, width, channels], or None if libjpeg fails, reports another size, or gives a
    harmless warning: then the caller uses `load_by_pillow`. Raises UndecodableImage if pixels are
    missing or corrupt. `again=False` means that the data may not be decoded a second time.
    """
    if window is None or mode != "RGB" or not AVAILABLE:
        pixels, warning = _decode(data, mode, size)
    else:
        pixels, warning = decode_window(data, size, window)
    if not warning:
        return pixels
    if DAMAGE.search(warning):
        raise UndecodableImage("The JPEG data is truncated or corrupt.")
    if again or _stopped_at_header(data):
        return None
    if _HARMLESS.search(warning) and with_filler(data) is not None:
        return pixels
    raise UndecodableImage("The JPEG data is corrupt.")


def load_by_pillow(image: JpegImageFile, data: bytes, *, again: bool) -> None:
    """Load an opened JPEG with Pillow. Raises UndecodableImage if its end marker came too early.

    `again=False` skips this check, which takes a second decode.
    """
    # In one block: libjpeg rescans a long run of FF bytes from its start with every block.
    image.decodermaxblock = len(data)
    image.load()
    if not again:
        return
    filled = with_filler(data)
    if filled is not None:
        with Image.open(io.BytesIO(filled), formats=("JPEG",)) as other:
            other.load()
            if _same(image, other):
                return
    raise UndecodableImage("The JPEG data is truncated: its end marker came too early.")


def _same(one: Image.Image, other: Image.Image) -> bool:
    """Compare two images in bands of rows, to save memory."""
    bands = ((0, top, one.width, top + _BAND_ROWS) for top in range(0, one.height, _BAND_ROWS))
    return all(one.crop(band).tobytes() == other.crop(band).tobytes() for band in bands)


def _decode(data: bytes, mode: str, size: Size) -> tuple[NDArray[np.uint8], str]:
    """Return the pixels, as far as they were decoded, and libjpeg's warning or error, or ""."""
    name, _, channels = _LAYOUTS[mode]
    pixels = np.empty((size[1], size[0], channels), np.uint8)
    try:
        made = simplejpeg.decode_jpeg(data, name, strict=True, buffer=pixels)
    except ValueError as error:  # also for an image that is larger than the buffer
        return pixels, str(error)
    return pixels, "" if made.shape == pixels.shape else "another size"


def _stopped_at_header(data: bytes) -> bool:
    """Return whether libjpeg fails or warns before it reaches the pixels."""
    try:
        simplejpeg.decode_jpeg_header(data, strict=True)
    except (ValueError, KeyError):  # KeyError: a sampling that simplejpeg does not know
        return True
    return False


def size_of(source: Source) -> Size:
    """Return (width, height)."""
    return source.size if isinstance(source, Image.Image) else (source.shape[1], source.shape[0])


def as_image(source: Source) -> Image.Image:
    """Return the image itself, or its pixels copied into an image of mode RGB."""
    return source if isinstance(source, Image.Image) else image_of(source, "RGB")


def image_of(pixels: NDArray[np.uint8], mode: str) -> Image.Image:
    """Return pixels from `decode_straight`, copied into an image of the same mode."""
    return Image.frombytes(mode, size_of(pixels), pixels.data, "raw", _LAYOUTS[mode][1])
