"""Small generated images of every format and mode that a client may send."""

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from load_tests.fuzz import formats
from load_tests.fuzz.formats import LONG, SHORT

_SIZE = (72, 56)
_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


@dataclass(frozen=True)
class Seed:
    """One input before mutation."""

    name: str
    data: bytes


@cache
def image_seeds() -> tuple[Seed, ...]:
    """Return every seed, the same for the same release of Pillow."""
    kinds: tuple[Callable[[], Iterator[Seed]], ...]
    kinds = (_jpegs, _pngs, _written_pngs, _webps, _gifs, _bmps, _tiffs, _written_tiffs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about unusual images
        return tuple(seed for kind in kinds for seed in kind())


@cache
def good_image() -> bytes:
    """Return a valid image, whose answer must always be the same."""
    return _saved(_picture("RGB", (500, 375)), "JPEG", quality=88)


def _picture(mode: str = "RGB", size: tuple[int, int] = _SIZE, shift: int = 0) -> Image.Image:
    """Return waves with some noise: smooth like a photograph, and with every value."""
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]] / max(size)
    phases = np.array([0.0, 1.3, 2.6, 4.1]) + shift
    waves = 127 + 100 * np.sin(9 * columns[..., None] + 5 * rows[..., None] * (1 + phases) + phases)
    noise = np.random.default_rng(shift).integers(-12, 12, waves.shape)
    rgba = np.clip(waves + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(rgba).convert(mode)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _jpegs() -> Iterator[Seed]:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    variants: dict[str, tuple[str, dict[str, Any]]] = {
        "baseline": ("RGB", {}),
        "444": ("RGB", {"subsampling": 0, "quality": 95}),
        "422": ("RGB", {"subsampling": 1}),
        "progressive": ("RGB", {"progressive": True}),
        "optimised": ("RGB", {"optimize": True, "quality": 30}),
        "grey": ("L", {}),
        "grey-progressive": ("L", {"progressive": True}),
        "cmyk": ("CMYK", {}),
        "cmyk-progressive": ("CMYK", {"progressive": True}),
        "restarts": ("RGB", {"restart_marker_blocks": 2}),
        "icc": ("RGB", {"icc_profile": profile}),
        "xmp-6": ("RGB", {"xmp": _XMP}),
        "comment": ("RGB", {"comment": b"a comment"}),
        "rgb-components": ("RGB", {"keep_rgb": True}),
    }
    for name, (mode, options) in variants.items():
        yield Seed(f"jpeg-{name}", _saved(_picture(mode), "JPEG", **options))
    for orientation in range(1, 9):
        exif = formats.orientation_exif(orientation)
        yield Seed(f"jpeg-exif-{orientation}", _saved(_picture(), "JPEG", exif=exif))
    yield Seed("jpeg-arithmetic", formats.arithmetic_jpeg(64, 8))


def _pngs() -> Iterator[Seed]:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = _picture("RGB" if mode in ("P", "I;16") else mode)
        if mode == "P":
            image = image.quantize(64)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(_picture("L")).astype(np.uint16) * 257)
        yield Seed(f"png-{mode}", _saved(image, "PNG"))
    for bits in (1, 2, 4):
        image = _picture().quantize(1 << bits)
        yield Seed(f"png-palette-{bits}", _saved(image, "PNG", bits=bits))
    palette = _picture().quantize(32)
    yield Seed("png-palette-transparent", _saved(palette, "PNG", transparency=bytes(range(32))))
    yield Seed("png-rgb-transparent", _saved(_picture(), "PNG", transparency=(127, 127, 127)))
    texts = PngInfo()
    texts.add_text("Comment", "plain")
    texts.add_text("Long", "compressed " * 40, zip=True)
    texts.add_itxt("Title", "international", "en", "Title", zip=True)
    yield Seed("png-texts", _saved(_picture(), "PNG", pnginfo=texts))
    yield Seed("png-exif-6", _saved(_picture(), "PNG", exif=formats.orientation_exif(6)[6:]))
    frames = [_picture("RGBA", shift=n) for n in (1, 2)]
    animated = {"save_all": True, "append_images": frames, "duration": 40, "disposal": 1}
    yield Seed("png-animated", _saved(_picture("RGBA"), "PNG", **animated))


def _written_pngs() -> Iterator[Seed]:
    for colour in (formats.GREY, formats.RGB, formats.GREY_ALPHA, formats.RGBA):
        for depth in (8, 16):
            data = formats.png(_SIZE, depth, colour, interlaced=True)
            yield Seed(f"png-interlaced-{colour}-{depth}", data)
        yield Seed(f"png-16-bit-{colour}", formats.png(_SIZE, 16, colour))
    for depth in (1, 2, 4):
        yield Seed(f"png-grey-{depth}", formats.png(_SIZE, depth, formats.GREY))
    exif = formats.exif_text(formats.orientation_exif(6))
    yield Seed("png-exif-text", formats.png(_SIZE, before=[exif]))
    late = [(b"eXIf", formats.orientation_exif(8)[6:])]
    yield Seed("png-late-exif", formats.png(_SIZE, after=late))
    whole = formats.png(_SIZE, before=[exif], fill=bytes(range(251)))
    yield Seed("png-exif-text-corrupt", _with_a_damaged_end(whole))


def _with_a_damaged_end(whole: bytes) -> bytes:
    """Return a PNG whose pixels end in bytes that are invalid in a deflate stream."""
    at = whole.index(b"IDAT") + 4
    end = whole.index(b"IEND") - 8
    middle = (at + end) // 2
    return whole[:middle] + b"\xff" * (end - middle) + whole[end:]


def _webps() -> Iterator[Seed]:
    yield Seed("webp-lossy", _saved(_picture(), "WEBP"))
    yield Seed("webp-lossless", _saved(_picture(), "WEBP", lossless=True))
    yield Seed("webp-alpha", _saved(_picture("RGBA"), "WEBP"))
    yield Seed("webp-alpha-lossless", _saved(_picture("RGBA"), "WEBP", lossless=True))
    yield Seed("webp-exif-6", _saved(_picture(), "WEBP", exif=formats.orientation_exif(6)))
    yield Seed("webp-xmp-6", _saved(_picture(), "WEBP", xmp=_XMP))
    frames = {"save_all": True, "append_images": [_picture(shift=1)], "duration": 40}
    yield Seed("webp-animated", _saved(_picture(), "WEBP", **frames))
    yield Seed("webp-one-colour", formats.webp_lossless(*_SIZE))


def _gifs() -> Iterator[Seed]:
    flat = _picture().quantize(16)
    yield Seed("gif", _saved(flat, "GIF"))
    yield Seed("gif-grey-interlaced", _saved(_picture("L"), "GIF", interlace=1))
    yield Seed("gif-transparent", _saved(flat, "GIF", transparency=3))
    yield Seed("gif-comment", _saved(flat, "GIF", comment=b"a comment"))
    for disposal in (1, 2, 3):
        frames = [_picture(shift=n).quantize(16) for n in (1, 2)]
        options = {"save_all": True, "append_images": frames, "disposal": disposal}
        yield Seed(f"gif-disposal-{disposal}", _saved(flat, "GIF", **options))
        # A frame that is larger than its screen: Pillow fills all of it.
        yield Seed(f"gif-wide-frame-{disposal}", formats.gif((1, 1), (65535, 65535), disposal))


def _bmps() -> Iterator[Seed]:
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        image = _picture().quantize(64) if mode == "P" else _picture(mode)
        yield Seed(f"bmp-{mode}", _saved(image, "BMP"))
    width, height = _SIZE
    for bits in (4, 16, 32):
        yield Seed(f"bmp-{bits}-bit", formats.bmp(_SIZE, bits))
    yield Seed("bmp-565", formats.bmp(_SIZE, 16, compression=3))
    yield Seed("bmp-top-down", formats.bmp((width, -height), 24))
    runs = bytes([width, 9, 0, 0]) * height + b"\0\1"
    yield Seed("bmp-run-lengths", formats.bmp(_SIZE, 8, compression=1, pixels=runs))


def _tiffs() -> Iterator[Seed]:
    for compression in ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"):
        yield Seed(f"tiff-{compression}", _saved(_picture(), "TIFF", compression=compression))
    yield Seed("tiff-jpeg", _saved(_picture(), "TIFF", compression="jpeg"))
    for compression in ("group3", "group4", "tiff_ccitt"):
        yield Seed(f"tiff-{compression}", _saved(_picture("1"), "TIFF", compression=compression))
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F", "I"):
        if mode == "I;16":
            image = Image.fromarray(np.asarray(_picture("L")).astype(np.uint16) * 257)
        else:
            image = _of_mode(mode)
        yield Seed(f"tiff-{mode}", _saved(image, "TIFF"))
    yield Seed("tiff-orientation", _saved(_picture(), "TIFF", tiffinfo={274: 6}))
    pages = {"save_all": True, "append_images": [_picture(shift=1)]}
    yield Seed("tiff-pages", _saved(_picture(), "TIFF", **pages))


def _of_mode(mode: str) -> Image.Image:
    if mode == "P":
        return _picture().quantize(64)
    if mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        done = ImageCms.profileToProfile(
            _picture(), ImageCms.createProfile("sRGB"), lab, outputMode="LAB"
        )
        return done or _picture()
    return _picture("L").convert(mode) if mode in ("F", "I") else _picture(mode)


def _written_tiffs() -> Iterator[Seed]:
    width = height = 64
    rgb = np.asarray(_picture(size=(width, height)))
    size = [(256, SHORT, [width]), (257, SHORT, [height]), (259, SHORT, [1]), (262, SHORT, [2])]
    colours = [(258, SHORT, [8, 8, 8]), (277, SHORT, [3])]
    plane = width * height
    for order, name in (("<", "little"), (">", "big")):
        apart = [
            (284, SHORT, [2]),
            (278, SHORT, [height]),
            (273, LONG, [8, 8 + plane, 8 + 2 * plane]),
            (279, LONG, [plane] * 3),
        ]
        planes = rgb.transpose(2, 0, 1).tobytes()
        yield Seed(f"tiff-planar-{name}", formats.tiff([*size, *colours, *apart], planes, order))
        tile = 32 * 32 * 3
        tiled = [
            (322, SHORT, [32]),
            (323, SHORT, [32]),
            (324, LONG, [8 + n * tile for n in range(4)]),
            (325, LONG, [tile] * 4),
        ]
        tiles = rgb.reshape(2, 32, 2, 32, 3).transpose(0, 2, 1, 3, 4).tobytes()
        yield Seed(f"tiff-tiled-{name}", formats.tiff([*size, *colours, *tiled], tiles, order))
