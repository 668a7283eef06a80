"""Hostile bytes to an upright RGB image, within bounds.

The format is decided by content and must be on the allow-list; the size is read from the header
and refused before a pixel is decoded; whatever a codec raises becomes one of this service's errors.
"""

from __future__ import annotations

import math
import warnings

import numpy as np

# Imported here, all six, so that the first request of a format does not wait for its codec.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    TiffTags,
    WebPImagePlugin,
)
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from service.errors import ImageTooLarge, UndecodableImage, UnsupportedImageType
from service.imaging.geometry import Size as Size  # callers take it from here
from service.imaging.header import SizeCheck, inspect_kind
from service.imaging.jpeg import Rgba, Source, as_image, decode_rgba
from service.imaging.kinds import sniff as sniff
from service.imaging.spec import PreprocessSpec
from service.imaging.structure import MAX_EXIF_BYTES, BoundedReads, check_structure

# `check_size` below is the bound, from settings; Pillow's own would warn or raise on its own terms.
Image.MAX_IMAGE_PIXELS = None
# It warns of every broken tag, in words a client chooses, and Python keeps each text for ever.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_ORIENTATION = 0x0112
_EXIF_KEYS = ("exif", "Raw profile type exif")
_SIDEWAYS = (5, 6, 7, 8)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_COMPOSITE = {"composite-white": (255, 255, 255, 255), "composite-black": (0, 0, 0, 255)}


def decode(data: bytes, spec: PreprocessSpec, check_size: SizeCheck) -> Image.Image:
    """Do what `decode_source` does and return an image of mode RGB."""
    return as_image(decode_source(data, spec, check_size))


def decode_source(
    data: bytes, spec: PreprocessSpec, check_size: SizeCheck, limit_s: float = math.inf
) -> Source:
    """Decode the first frame to an upright RGB image, as its decoder leaves it.

    `check_size` is called with every (width, height) the file declares before it is opened, and
    with the upright one before any pixel is decoded. Raises UnsupportedImageType, UndecodableImage,
    ImageTooLarge when decoding would take more than `limit_s` CPU seconds, or whatever
    `check_size` raises.
    """
    kind = sniff(data)
    try:
        inspect_kind(kind, data, check_size, limit_s)
        check_structure(kind, data)
        with Image.open(BoundedReads(kind, data), formats=(kind,)) as image:
            check_size(_upright_size(image, spec))
            if isinstance(image, TiffImageFile):
                _forget_directories(image)
            if isinstance(image, JpegImageFile):
                if (pixels := _straight(image, data, spec)) is not None:
                    return pixels
                # In one piece: libjpeg starts a long fill of FF again with every block it gets.
                image.decodermaxblock = len(data)
            image.load()
            # Asked again: a PNG may tell its orientation after its pixels.
            orientation = _orientation(image, spec)
            upright = image if orientation == 1 else image.transpose(_UPRIGHT[orientation])
            return _to_rgb(upright, spec)
    except (ImageTooLarge, UnsupportedImageType, UndecodableImage):
        raise
    except MemoryError as error:
        raise ImageTooLarge("The image does not fit into memory.") from error
    except Exception as error:  # codecs raise anything: SyntaxError, struct.error, …
        raise UndecodableImage(f"The {kind} data is truncated or corrupt.") from error


def _straight(image: JpegImageFile, data: bytes, spec: PreprocessSpec) -> Rgba | None:
    upright_rgb = image.mode == "RGB" and _orientation(image, spec) == 1
    return decode_rgba(data, image.size) if upright_rgb else None


def _forget_directories(image: TiffImageFile) -> None:
    """Drop the pointers to a TIFF's EXIF, GPS and interoperability directories.

    Pillow would unpack every value in them after the pixels, and nothing here reads one.
    """
    exif = image.getexif()
    for pointer in TiffTags.TAGS_V2_GROUPS:
        if pointer in exif:
            del exif[pointer]


def _upright_size(image: Image.Image, spec: PreprocessSpec) -> Size:
    width, height = image.size
    return (height, width) if _orientation(image, spec) in _SIDEWAYS else (width, height)


def _orientation(image: Image.Image, spec: PreprocessSpec) -> int:
    """Return the EXIF orientation to apply, 1 when there is none or it cannot be read.

    A TIFF's is 1: Pillow turns a TIFF upright itself and reports its upright size.
    """
    if spec.exif_orientation == "ignore" or isinstance(image, TiffImageFile):
        return 1
    exif = [image.info[key] for key in _EXIF_KEYS if key in image.info]
    if not exif:
        return 1
    if max(map(len, exif)) > MAX_EXIF_BYTES:
        raise UndecodableImage(f"The image has more than {MAX_EXIF_BYTES:,} bytes of EXIF.")
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - broken metadata is no reason to refuse sound pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image, spec: PreprocessSpec) -> Image.Image:
    """Apply the spec's mode rules."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _from_sixteen_bit(image, spec)
    if image.mode in ("I", "F"):
        raise UnsupportedImageType(
            "Images of 32-bit integers or floats have no agreed range; send 8 or 16 bits a channel."
        )
    if spec.alpha != "drop" and image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, _COMPOSITE[spec.alpha])
        return Image.alpha_composite(ground, layer).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _from_sixteen_bit(image: Image.Image, spec: PreprocessSpec) -> Image.Image:
    values = np.asarray(image)
    eight = np.minimum(values, 255) if spec.sixteen_bit == "clip" else values >> 8
    return Image.fromarray(eight.astype(np.uint8)).convert("RGB")
