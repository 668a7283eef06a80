"""Hostile bytes to an upright RGB image, within bounds.

The format is decided by content and must be on the allow-list; the size is read from the header
and refused before a pixel is decoded; whatever a codec raises becomes one of this service's errors.
"""

from __future__ import annotations

import math
import warnings

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
from PIL.WebPImagePlugin import WebPImageFile

from tidegate.service.errors import (
    ImageTooLarge,
    RequestError,
    UndecodableImage,
    UnsupportedImageType,
)
from tidegate.service.imaging.codec_output import silence_codecs
from tidegate.service.imaging.completeness import check_rows, check_tiles, stored_size
from tidegate.service.imaging.geometry import Size as Size  # callers take it from here
from tidegate.service.imaging.header import SizeCheck, inspect_whole
from tidegate.service.imaging.jpeg import (
    Source,
    as_image,
    decode_straight,
    image_of,
    load_by_pillow,
)
from tidegate.service.imaging.kinds import sniff as sniff  # callers take it from here
from tidegate.service.imaging.kinds import undecodable
from tidegate.service.imaging.modes import to_rgb
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.imaging.structure import BoundedReads, check_exif, check_structure

# `check_size` below is the bound, from settings. Pillow's own is the second line of defence, which
# a process of the service sets at its start; until then there is none.
Image.MAX_IMAGE_PIXELS = None
warnings.simplefilter("error", Image.DecompressionBombWarning)
silence_codecs()

_ORIENTATION = 0x0112
_EXIF_KEYS = ("exif", "Raw profile type exif")  # the second is ImageMagick's, in a PNG's text
_XMP_KEYS = {"xmp", "XML:com.adobe.xmp"}
_SIDEWAYS = (5, 6, 7, 8)
_DECODES = 3  # of a JPEG that libjpeg warns of: straight, by Pillow, and to see whether it is whole
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def bound_pillow(max_image_pixels: int) -> None:
    """Make Pillow itself refuse more pixels in this process, before it allocates them.

    Called once, at the start: the bound is a global of Pillow's, and holds for every thread.
    """
    Image.MAX_IMAGE_PIXELS = max_image_pixels


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
    `check_size` raises, without a cause.
    """
    kind = sniff(data)
    try:
        return _decode(kind, data, spec, check_size, limit_s)
    except (ImageTooLarge, UnsupportedImageType, UndecodableImage) as error:
        refusal: RequestError = error.with_traceback(None)
        refusal.__context__ = refusal.__cause__ = None
    except MemoryError:
        refusal = ImageTooLarge("The image does not fit into memory.")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        refusal = ImageTooLarge("The image has more pixels than its header declares.")
    except Exception:  # noqa: BLE001 - codecs raise anything: SyntaxError, struct.error, …
        refusal = undecodable(kind, data)
    try:
        # Out here, and without the codec's error: its frames would keep the pixels and the upload.
        del data
        raise refusal
    finally:
        del refusal  # or it and this frame would refer to each other


def _decode(
    kind: str, data: bytes, spec: PreprocessSpec, check_size: SizeCheck, limit_s: float
) -> Source:
    header = inspect_whole(kind, data, check_size, limit_s)
    check_structure(kind, data)
    with Image.open(BoundedReads(kind, data), formats=(kind,)) as image:
        orientation = _orientation(image, spec)
        size = _upright_size(image, orientation)
        check_size(size)
        if isinstance(image, TiffImageFile):
            check_tiles(image)
            _forget_directories(image)
        if isinstance(image, JpegImageFile):
            again = _DECODES * header.work.seconds <= limit_s
            return _decode_jpeg(image, data, orientation, spec, again=again)
        image.load()
        if isinstance(image, WebPImageFile):
            _forget_canvases(image)
        if isinstance(image, PngImageFile):
            check_rows(image, data)
        orientation = _orientation(image, spec)  # again: a PNG may give it after its pixels
        if (loaded := _turned(image.size, orientation)) != size:
            check_size(loaded)
        return to_rgb(_turn(image, orientation), spec)


def _decode_jpeg(
    image: JpegImageFile, data: bytes, orientation: int, spec: PreprocessSpec, *, again: bool
) -> Source:
    """Decode once, or again if libjpeg reports something and `again` allows it."""
    pixels = decode_straight(data, image.mode, image.size, again=again)
    if pixels is None:
        load_by_pillow(image, data, again=again)
        return to_rgb(_turn(image, orientation), spec)
    if image.mode == "RGB" and orientation == 1:
        return pixels
    copied = image_of(pixels, image.mode)
    del pixels  # before the next copy
    return to_rgb(_turn(copied, orientation), spec)


def _forget_directories(image: TiffImageFile) -> None:
    """Drop the pointers to a TIFF's EXIF, GPS and interoperability directories.

    Pillow would unpack every value in them after the pixels, and nothing here reads one.
    """
    exif = image.getexif()
    for pointer in TiffTags.TAGS_V2_GROUPS:
        if pointer in exif:
            del exif[pointer]


def _forget_canvases(image: WebPImageFile) -> None:
    """Free a decoded WebP's two canvases in libwebp and its bytes: 12 bytes a pixel."""
    image._decoder = image.fp = None


def _upright_size(image: Image.Image, orientation: int) -> Size:
    if isinstance(image, TiffImageFile):  # whose `size` knows the tag, and not yet the XMP
        return _turned(stored_size(image), _orientation_in_metadata(image))
    return _turned(image.size, orientation)


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(_UPRIGHT[orientation])


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
    for block in exif:
        check_exif(image.format or "image", block)
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
