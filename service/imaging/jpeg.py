"""A JPEG's pixels straight from libjpeg-turbo: the same as Pillow's, sooner, and with its warnings.

Pillow asks libjpeg for a line at a time, copies each into its image, and drops what libjpeg warns
of: that data is missing, or corrupt. Here libjpeg writes into one array, in the layout that
`_resample` reads if the image is RGB.
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
from tidegate.service.imaging.geometry import Size

Rgba = NDArray[np.uint8]  # [height, width, 4]; the fourth is 255
Source = Image.Image | Rgba  # an upright RGB image, as its decoder left it

# Pillow's mode to simplejpeg's name of the layout, Pillow's name of it, and its channels
_LAYOUTS = {"RGB": ("RGBA", "RGBX", 4), "L": ("GRAY", "L", 1), "CMYK": ("CMYK", "CMYK;I", 4)}
# libjpeg fills what is missing or corrupt with grey, and goes on.
_DAMAGE = re.compile("premature end|bad Huffman code|instead of RST", re.IGNORECASE)
# Every other warning of a decoder: no pixel is lost. Only a file's first warning gets here.
_HARMLESS = re.compile(
    "extraneous bytes before marker|unknown JFIF revision|Unknown Adobe color transform"
    "|Invalid SOS parameters|Inconsistent progression|bad ICC marker"
)
_BAND_ROWS = 64


def decode_straight(
    data: bytes, mode: str, size: Size, *, again: bool = True
) -> NDArray[np.uint8] | None:
    """Decode the first image of a JPEG of `size` (width, height) and of Pillow's `mode`.

    Returns [height, width, channels], or None when libjpeg errs, finds another size, or warns of
    what is harmless: what to make of such data is for `load_by_pillow`. Raises UndecodableImage
    when pixels are missing or corrupt. Without `again` no data is decoded a second time.
    """
    pixels, says = _decode(data, mode, size)
    if not says:
        return pixels
    if _DAMAGE.search(says):
        raise UndecodableImage("The JPEG data is truncated or corrupt.")
    if again or _stopped_at_header(data):
        return None
    if _HARMLESS.search(says) and with_filler(data) is not None:
        return pixels
    raise UndecodableImage("The JPEG data is corrupt.")


def load_by_pillow(image: JpegImageFile, data: bytes, *, again: bool) -> None:
    """Load an opened JPEG as Pillow does. Raises UndecodableImage when its end came too early.

    Without `again` that is not checked: it takes a second decode.
    """
    # In one piece: libjpeg starts a long fill of FF again with every block it gets.
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
    raise UndecodableImage("The JPEG data is truncated: its end came too early.")


def _same(one: Image.Image, other: Image.Image) -> bool:
    """Compare pixels a band of rows at a time: bytes of both images at once are memory."""
    bands = ((0, top, one.width, top + _BAND_ROWS) for top in range(0, one.height, _BAND_ROWS))
    return all(one.crop(band).tobytes() == other.crop(band).tobytes() for band in bands)


def _decode(data: bytes, mode: str, size: Size) -> tuple[NDArray[np.uint8], str]:
    """Return the pixels, as far as they are there, and what libjpeg says of them, if anything."""
    name, _, channels = _LAYOUTS[mode]
    pixels = np.empty((size[1], size[0], channels), np.uint8)
    try:
        made = simplejpeg.decode_jpeg(data, name, strict=True, buffer=pixels)
    except ValueError as error:  # also for an image that is larger than the buffer
        return pixels, str(error)
    return pixels, "" if made.shape == pixels.shape else "another size"


def _stopped_at_header(data: bytes) -> bool:
    """Return whether libjpeg errs or warns before it comes to the pixels."""
    try:
        simplejpeg.decode_jpeg_header(data, strict=True)
    except (ValueError, KeyError):  # the latter for a sampling that simplejpeg has no name for
        return True
    return False


def size_of(source: Source) -> Size:
    """Return (width, height)."""
    return source.size if isinstance(source, Image.Image) else (source.shape[1], source.shape[0])


def as_image(source: Source) -> Image.Image:
    """Return the image itself, or its pixels copied into one of mode RGB."""
    return source if isinstance(source, Image.Image) else image_of(source, "RGB")


def image_of(pixels: NDArray[np.uint8], mode: str) -> Image.Image:
    """Return what `decode_straight` made for a mode, copied into an image of that mode."""
    return Image.frombytes(mode, size_of(pixels), pixels.data, "raw", _LAYOUTS[mode][1])
