"""Decode untrusted bytes to an upright RGB image, within limits.

The format is determined from the content and must be on the allow-list. The size is read from the
header and checked before a pixel is decoded. A codec's exceptions become this service's errors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

# All six are imported here, so that the first request of a format does not wait for its codec.
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
    EngineFailed,
    ImageTooLarge,
    TidegateError,
    UndecodableImage,
    UnsupportedImageType,
)
from tidegate.service.imaging import nvjpeg
from tidegate.service.imaging.codec_output import silence_codecs
from tidegate.service.imaging.completeness import check_rows, check_tiles, stored_size
from tidegate.service.imaging.geometry import Box
from tidegate.service.imaging.geometry import Size as Size  # re-exported
from tidegate.service.imaging.header import Header, SizeCheck, inspect_whole
from tidegate.service.imaging.jpeg import (
    Source,
    as_image,
    decode_straight,
    image_of,
    load_by_pillow,
)
from tidegate.service.imaging.kinds import sniff as sniff  # re-exported
from tidegate.service.imaging.kinds import undecodable
from tidegate.service.imaging.modes import to_rgb
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.imaging.structure import BoundedReads, check_exif, check_structure

# The limit is `check_size` below, from the settings. Pillow's own limit is a second line of
# defence: `bound_pillow` sets it at the service's start, and until then it is off.
Image.MAX_IMAGE_PIXELS = None
warnings.simplefilter("error", Image.DecompressionBombWarning)
silence_codecs()

Needs = Callable[[Size], Box | None]  # the pixels of an upright image that are used; None: all

_ORIENTATION = 0x0112
_EXIF_KEYS = ("exif", "Raw profile type exif")  # the second: ImageMagick's text chunk in a PNG
_XMP_KEYS = {"xmp", "XML:com.adobe.xmp"}
_SIDEWAYS = (5, 6, 7, 8)
_DECODES = 3  # of a JPEG with a warning: directly, by Pillow, and to check for truncation
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
    """Set Pillow's own pixel limit in this process, which it checks before it allocates.

    Called once, at the start: the limit is a global of Pillow and applies to every thread.
    """
    Image.MAX_IMAGE_PIXELS = max_image_pixels


def decode(data: bytes, spec: PreprocessSpec, check_size: SizeCheck) -> Image.Image:
    """Return the result of `decode_source` as an image of mode RGB."""
    return as_image(decode_source(data, spec, check_size))


def decode_source(
    data: bytes,
    spec: PreprocessSpec,
    check_size: SizeCheck,
    limit_s: float = math.inf,
    header: Header | None = None,
    needs: Needs | None = None,
) -> Source:
    """Decode the first frame to an upright RGB image, in its decoder's memory layout.

    `check_size` is called with every (width, height) that the file declares before it is opened,
    and with the upright size before any pixel is decoded. `header` is the result of `inspect` with
    the same `check_size` and `limit_s`, if it was called. If `needs` is given, pixels that it does
    not need may have no meaning. Raises UnsupportedImageType, UndecodableImage, ImageTooLarge if
    decoding would take more than `limit_s` CPU seconds, EngineFailed if a GPU that decodes fails,
    or what `check_size` raises. These errors have no cause.
    """
    kind = sniff(data) if header is None else header.kind
    try:
        if header is None or header.estimated:
            header = inspect_whole(kind, data, check_size, limit_s)
        return _decode(header, data, spec, check_size, limit_s, needs)
    except (ImageTooLarge, UnsupportedImageType, UndecodableImage, EngineFailed) as error:
        refusal: TidegateError = error.with_traceback(None)
        refusal.__context__ = refusal.__cause__ = None
    except MemoryError:
        refusal = ImageTooLarge("The image does not fit into memory.")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        refusal = ImageTooLarge("The image has more pixels than its header declares.")
    except Exception:  # noqa: BLE001 - codecs raise anything: SyntaxError, struct.error, …
        refusal = undecodable(kind, data)
    try:
        # Raised outside the `except` block, without the codec's error as its context: that error's
        # frames would keep the pixels and the upload in memory.
        del data
        raise refusal
    finally:
        del refusal  # breaks the reference cycle of the error and this frame


def _decode(
    header: Header,
    data: bytes,
    spec: PreprocessSpec,
    check_size: SizeCheck,
    limit_s: float,
    needs: Needs | None,
) -> Source:
    check_structure(header.kind, data)
    with Image.open(BoundedReads(header.kind, data), formats=(header.kind,)) as image:
        orientation = _orientation(image, spec)
        size = _upright_size(image, orientation)
        check_size(size)
        if isinstance(image, TiffImageFile):
            check_tiles(image)
            _forget_directories(image)
        if isinstance(image, JpegImageFile):
            again = _DECODES * header.work.seconds <= limit_s
            return _decode_jpeg(image, data, orientation, spec, needs, again=again)
        image.load()
        if isinstance(image, WebPImageFile):
            _forget_canvases(image)
        if isinstance(image, PngImageFile):
            check_rows(image, data)
        orientation = _orientation(image, spec)  # again: in a PNG it may follow the pixels
        if (loaded := _turned(image.size, orientation)) != size:
            check_size(loaded)
        return to_rgb(_turn(image, orientation), spec)


def _decode_jpeg(
    image: JpegImageFile,
    data: bytes,
    orientation: int,
    spec: PreprocessSpec,
    needs: Needs | None,
    *,
    again: bool,
) -> Source:
    """Decode once, and again if libjpeg warns and `again` is true."""
    if spec.decoder == "nvjpeg" and image.mode == "RGB":
        return _turn(Image.fromarray(nvjpeg.decode(data, image.size)), orientation)
    window = needs(image.size) if needs is not None and orientation == 1 else None
    pixels = decode_straight(data, image.mode, image.size, window, again=again)
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

    Pillow would unpack all their values after the pixels, and they are not used.
    """
    exif = image.getexif()
    for pointer in TiffTags.TAGS_V2_GROUPS:
        if pointer in exif:
            del exif[pointer]


def _forget_canvases(image: WebPImageFile) -> None:
    """Free the two canvases and the copy of the file in libwebp: 12 bytes per pixel."""
    image._decoder = image.fp = None


def _upright_size(image: Image.Image, orientation: int) -> Size:
    if isinstance(image, TiffImageFile):  # its `size` considers the tag, but not the XMP
        return _turned(stored_size(image), _orientation_in_metadata(image))
    return _turned(image.size, orientation)


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(_UPRIGHT[orientation])


def _turned(size: Size, orientation: int) -> Size:
    return size[::-1] if orientation in _SIDEWAYS else size


def _orientation(image: Image.Image, spec: PreprocessSpec) -> int:
    """Return the orientation to apply; 1 for a TIFF, because Pillow's loader already applies it."""
    if spec.exif_orientation == "ignore" or isinstance(image, TiffImageFile):
        return 1
    return _orientation_in_metadata(image)


def _orientation_in_metadata(image: Image.Image) -> int:
    """Return the orientation that `ImageOps.exif_transpose` applies, 1 to 8, decoding no pixels.

    It is EXIF's, or XMP's if EXIF has no such tag. It is 1 if neither has one, or if EXIF cannot be
    read: broken metadata is no reason to reject an image with valid pixels.
    """
    exif = [image.info[key] for key in _EXIF_KEYS if key in image.info]
    for block in exif:
        check_exif(image.format or "image", block)
    if not exif and not isinstance(image, TiffImageFile) and not _XMP_KEYS & image.info.keys():
        return 1
    if isinstance(image, PngImageFile):
        image._exif = None  # drop the cache: more metadata may have been read since
    try:
        # The base class's method: the PNG plugin's decodes the pixels first, to find later chunks.
        value = Image.Image.getexif(image).get(_ORIENTATION)
        return int(value) if value in _UPRIGHT else 1
    except Exception:  # noqa: BLE001 - Pillow's EXIF parser raises many kinds of exceptions
        return 1
