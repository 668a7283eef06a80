"""Hostile bytes to an upright RGB image, within bounds.

The format is decided by content and must be on the allow-list; the size is read from the header
and refused before a pixel is decoded; whatever a codec raises becomes one of this service's errors.
"""

from __future__ import annotations

from collections.abc import Callable

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
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from service.errors import ImageTooLarge, RequestError, UndecodableImage, UnsupportedImageType
from service.imaging.codec_output import silence_codecs
from service.imaging.completeness import check_rows, check_tiles, stored_size
from service.imaging.geometry import Size as Size  # callers take it from here
from service.imaging.jpeg import Source, as_image, decode_rgba
from service.imaging.other_formats import ALLOWED, other_format
from service.imaging.spec import PreprocessSpec
from service.imaging.structure import (
    MAX_EXIF_BYTES,
    BoundedReads,
    check_structure,
    tiff_grid,
    webp_canvas,
)
from service.imaging.unsupported import unsupported_feature

# `check_size` below is the bound, from settings; Pillow's own would warn or raise on its own terms.
Image.MAX_IMAGE_PIXELS = None
silence_codecs()

SizeCheck = Callable[[Size], None]

_ORIENTATION = 0x0112
_EXIF_KEYS = ("exif", "Raw profile type exif")  # the second is ImageMagick's, in a PNG's text
_XMP_KEYS = {"xmp", "XML:com.adobe.xmp"}
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


def sniff(data: bytes) -> str:
    """Return Pillow's name of the image format in `data`, by its first bytes.

    Raises UnsupportedImageType when it is not one of the allowed formats.
    """
    head = data[:12]
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    if head.startswith(b"BM"):
        return "BMP"
    if name := other_format(data):
        raise UnsupportedImageType(f"{name} is not supported; send {ALLOWED}.")
    raise UnsupportedImageType(f"The content is not {ALLOWED}.")


def decode(data: bytes, spec: PreprocessSpec, check_size: SizeCheck) -> Image.Image:
    """Do what `decode_source` does and return an image of mode RGB."""
    return as_image(decode_source(data, spec, check_size))


def decode_source(data: bytes, spec: PreprocessSpec, check_size: SizeCheck) -> Source:
    """Decode the first frame to an upright RGB image, as its decoder leaves it.

    `check_size` is called with the upright (width, height) before any pixel is decoded.
    Raises UnsupportedImageType, UndecodableImage, or whatever `check_size` raises, without a cause.
    """
    kind = sniff(data)
    try:
        return _decode(kind, data, spec, check_size)
    except (ImageTooLarge, UnsupportedImageType, UndecodableImage) as error:
        refusal: RequestError = error.with_traceback(None)
        refusal.__context__ = refusal.__cause__ = None
    except MemoryError:
        refusal = ImageTooLarge("The image does not fit into memory.")
    except Exception:  # noqa: BLE001 - codecs raise anything: SyntaxError, struct.error, …
        refusal = _undecodable(kind, data)
    try:
        # Out here, and without the codec's error: its frames would keep the pixels and the upload.
        del data
        raise refusal
    finally:
        del refusal  # or it and this frame would refer to each other


def _undecodable(kind: str, data: bytes) -> RequestError:
    if reason := unsupported_feature(kind, data):
        return UnsupportedImageType(reason)
    return UndecodableImage(f"The {kind} data is truncated or corrupt.")


def _decode(kind: str, data: bytes, spec: PreprocessSpec, check_size: SizeCheck) -> Source:
    _check_before_opening(kind, data, check_size)
    with Image.open(BoundedReads(kind, data), formats=(kind,)) as image:
        orientation = _orientation(image, spec)
        size = _upright_size(image, orientation)
        check_size(size)
        if isinstance(image, TiffImageFile):
            check_tiles(image)
            _forget_directories(image)
        if isinstance(image, JpegImageFile):
            if image.mode == "RGB" and orientation == 1:
                pixels = decode_rgba(data, image.size)
                if pixels is not None:
                    return pixels
            # In one piece: libjpeg starts a long fill of FF again with every block it gets.
            image.decodermaxblock = len(data)
        image.load()
        if isinstance(image, PngImageFile):
            check_rows(image, data)
        orientation = _orientation(image, spec)  # again: a PNG may give it after its pixels
        if (loaded := _turned(image.size, orientation)) != size:
            check_size(loaded)
        upright = image if orientation == 1 else image.transpose(_UPRIGHT[orientation])
        return _to_rgb(upright, spec)


def _check_before_opening(kind: str, data: bytes, check_size: SizeCheck) -> None:
    if kind == "WEBP":  # Pillow allocates the whole canvas while opening one
        check_size(webp_canvas(data))
    if kind == "TIFF" and (grid := tiff_grid(data)):
        check_size(grid)
    check_structure(kind, data)


def _forget_directories(image: TiffImageFile) -> None:
    """Drop the pointers to a TIFF's EXIF, GPS and interoperability directories.

    Pillow would unpack every value in them after the pixels, and nothing here reads one.
    """
    exif = image.getexif()
    for pointer in TiffTags.TAGS_V2_GROUPS:
        if pointer in exif:
            del exif[pointer]


def _upright_size(image: Image.Image, orientation: int) -> Size:
    if isinstance(image, TiffImageFile):  # whose `size` knows the tag, and not yet the XMP
        return _turned(stored_size(image), _orientation_in_metadata(image))
    return _turned(image.size, orientation)


def _turned(size: Size, orientation: int) -> Size:
    return size[::-1] if orientation in _SIDEWAYS else size


def _orientation(image: Image.Image, spec: PreprocessSpec) -> int:
    """Return the orientation to apply, 1 for a TIFF: Pillow's loader turns it in any case."""
    if spec.exif_orientation == "ignore" or isinstance(image, TiffImageFile):
        return 1
    return _orientation_in_metadata(image)


def _orientation_in_metadata(image: Image.Image) -> int:
    """Return the orientation that `ImageOps.exif_transpose` applies, 1 to 8, decoding no pixels.

    It is EXIF's; XMP's where EXIF has no such tag; and 1 where neither has one, or EXIF cannot be
    read: broken metadata is no reason to refuse sound pixels.
    """
    exif = [image.info[key] for key in _EXIF_KEYS if key in image.info]
    if exif and max(map(len, exif)) > MAX_EXIF_BYTES:
        raise UndecodableImage(f"The image has more than {MAX_EXIF_BYTES:,} bytes of EXIF.")
    if not exif and not isinstance(image, TiffImageFile) and not _XMP_KEYS & image.info.keys():
        return 1
    if isinstance(image, PngImageFile):
        image._exif = None  # more metadata may have been read since it was parsed
    try:
        # The base class's: a PNG's own decodes the pixels first, in search of later chunks.
        value = Image.Image.getexif(image).get(_ORIENTATION)
        return int(value) if value in _UPRIGHT else 1
    except Exception:  # noqa: BLE001 - parses bytes that are here already, in ways without end
        return 1


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
