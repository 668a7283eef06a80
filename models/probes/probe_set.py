"""The frozen probe set: image files that reveal differences between two preprocessings.

Generated from a fixed seed and the committed photographs. Pillow encodes the files, so the digest
is the same only for the same versions of Pillow, libjpeg and libwebp.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidegate.models.probes.golden import golden_probes as demo_probes
from tidegate.models.probes.photographs import PHOTOS

Probe = tuple[str, bytes]
Array = NDArray[np.uint8]

_ORIENTATION = 0x0112
# Odd and even, tiny, next to 224, 256 and their halves, and narrow.
_SIZES = (
    (1, 1),
    (1, 2),
    (2, 1),
    (2, 3),
    (3, 2),
    (5, 4),
    (7, 7),
    (8, 8),
    (15, 16),
    (17, 16),
    (1, 9),
    (9, 1),
    (1, 24),
    (24, 1),
    (2, 50),
    (50, 2),
    (3, 100),
    (100, 3),
    (400, 9),
    (9, 400),
    (31, 33),
    (33, 31),
    (64, 48),
    (63, 65),
    (100, 75),
    (97, 131),
    (131, 97),
    (112, 128),
    (127, 129),
    (223, 224),
    (224, 223),
    (224, 224),
    (225, 225),
    (232, 232),
    (255, 256),
    (256, 255),
    (256, 256),
    (257, 256),
    (256, 341),
    (342, 256),
    (320, 240),
    (333, 250),
    (375, 250),
    (251, 377),
    (500, 375),
    (375, 500),
    (499, 333),
    (640, 427),
    (700, 201),
    (201, 700),
    (640, 40),
    (40, 640),
)
_SLIVERS = ((1, 6_000), (6_000, 1))  # a resize by the shorter edge would be huge
_PATTERNS = ("noise", "gradient", "text", "bilevel")
_DEEP_SIZES = ((61, 47), (224, 301))


@cache
def _probes() -> dict[str, bytes]:
    rng = np.random.default_rng(2_024)
    probes: dict[str, bytes] = {}
    for part in (_sizes, _modes, _jpegs, _orientations, _formats, _deep, _photographs):
        for name, file in part(rng):
            if name in probes:
                raise AssertionError(f"two probes are called {name}")
            probes[name] = file
    return probes


def probe_set() -> dict[str, bytes]:
    """Return the encoded image files by name, more than 200; every call returns the same."""
    return dict(_probes())


def probe_set_digest() -> str:
    """Return the digest of the probe set with this machine's encoders."""
    return probes_digest(_probes())


def probes_digest(probes: Mapping[str, bytes]) -> str:
    """Return the sha256 over names and files, sorted by name."""
    digest = hashlib.sha256()
    for name, file in sorted(probes.items()):
        digest.update(f"{name} {hashlib.sha256(file).hexdigest()}\n".encode())
    return digest.hexdigest()


def _sizes(rng: np.random.Generator) -> Iterator[Probe]:
    """Yield every size in two patterns, lossless, so that any shifted pixel is detected."""
    for index, (width, height) in enumerate(_SIZES):
        for pattern in (_PATTERNS[index % 3 + 1], "noise"):
            image = Image.fromarray(_picture(rng, pattern, width, height))
            yield f"{pattern}-{width}x{height}.png", _saved(image, "PNG", compress_level=1)
    for width, height in _SLIVERS:
        image = Image.fromarray(_picture(rng, "noise", width, height))
        yield f"sliver-{width}x{height}.png", _saved(image, "PNG")


def _modes(rng: np.random.Generator) -> Iterator[Probe]:
    """Yield every PNG mode except 16 bits."""
    for width, height in ((61, 47), (255, 180), (180, 301)):
        size = f"{width}x{height}"
        image = Image.fromarray(_picture(rng, "gradient", width, height))
        grey, alpha = image.convert("L"), Image.fromarray(_plane(rng, width, height))
        palette = image.quantize(32, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        first = tuple(int(value) for value in np.asarray(image)[0, 0])
        half = bytes(rng.integers(0, 256, 32, np.uint8))
        layered = image.copy()
        layered.putalpha(alpha)
        yield f"mode-1-{size}.png", _saved(alpha.convert("1"), "PNG")
        yield f"mode-l-{size}.png", _saved(grey, "PNG")
        yield f"mode-l-transparent-{size}.png", _saved(grey, "PNG", transparency=128)
        yield f"mode-la-{size}.png", _saved(Image.merge("LA", (grey, alpha)), "PNG")
        yield f"mode-p-{size}.png", _saved(palette, "PNG")
        yield f"mode-p-transparent-{size}.png", _saved(palette, "PNG", transparency=3)
        yield f"mode-p-half-transparent-{size}.png", _saved(palette, "PNG", transparency=half)
        yield f"mode-p-4-bit-{size}.png", _saved(image.quantize(13), "PNG", bits=4)
        yield f"mode-rgb-transparent-{size}.png", _saved(image, "PNG", transparency=first)
        yield f"mode-rgba-{size}.png", _saved(layered, "PNG")


def _jpegs(rng: np.random.Generator) -> Iterator[Probe]:
    for width, height in ((33, 21), (226, 301)):
        image = Image.fromarray(_picture(rng, "text", width, height))
        size = f"{width}x{height}"
        for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
            for progressive in (False, True):
                kind = "progressive" if progressive else "baseline"
                name = f"jpeg-{kind}-{subsampling.replace(':', '')}-{size}.jpg"
                options = {"subsampling": subsampling, "progressive": progressive}
                yield name, _saved(image, "JPEG", quality=85, **options)
        yield f"jpeg-grey-{size}.jpg", _saved(image.convert("L"), "JPEG")
        yield f"jpeg-low-quality-{size}.jpg", _saved(image, "JPEG", quality=10)
        cmyk = _saved(image.convert("CMYK"), "JPEG", quality=90)
        yield f"jpeg-cmyk-{size}.jpg", cmyk
        yield f"jpeg-ycck-{size}.jpg", _as_ycck(cmyk)
        yield f"jpeg-rgb-{size}.jpg", _saved(image, "JPEG", quality=90, keep_rgb=True)


def _orientations(rng: np.random.Generator) -> Iterator[Probe]:
    """Yield EXIF 1 to 8 and an invalid value, on an image whose orientations all differ."""
    image = Image.fromarray(_picture(rng, "text", 270, 181))
    for orientation in range(1, 10):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        for kind in ("JPEG", "PNG", "WEBP"):
            name = f"exif-{orientation}.{kind.lower()}"
            yield name, _saved(image, kind, exif=exif, **_WEBP.get(kind, {}))
        if orientation in (3, 6, 8):
            yield f"exif-{orientation}.tiff", _saved(image, "TIFF", tiffinfo={274: orientation})


_WEBP: dict[str, dict[str, Any]] = {"WEBP": {"quality": 80, "method": 0}}


def _formats(rng: np.random.Generator) -> Iterator[Probe]:
    """Yield the other formats, WebP, BMP, GIF and TIFF, in each of their modes."""
    image = Image.fromarray(_picture(rng, "gradient", 171, 230))
    other = Image.fromarray(_picture(rng, "noise", 171, 230))
    layered = image.copy()
    layered.putalpha(Image.fromarray(_plane(rng, 171, 230)))
    lossless = {"lossless": True, "method": 0}
    frames: dict[str, Any] = {"save_all": True, "append_images": [other.convert("P")]}
    palette = image.quantize(64)
    yield "webp-lossless.webp", _saved(image, "WEBP", **lossless)
    yield "webp-lossless-alpha.webp", _saved(layered, "WEBP", exact=True, **lossless)
    yield "webp-lossy.webp", _saved(image, "WEBP", quality=70, method=0)
    yield "webp-lossy-alpha.webp", _saved(layered, "WEBP", quality=70, method=0)
    yield "webp-animated.webp", _saved(image, "WEBP", save_all=True, append_images=[other])
    yield "gif-animated.gif", _saved(palette, "GIF", **frames)
    yield "gif-still.gif", _saved(palette, "GIF")
    yield "gif-grey.gif", _saved(image.convert("L"), "GIF")
    yield "gif-transparent.gif", _saved(palette, "GIF", transparency=5)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        source = layered if mode == "RGBA" else image
        yield f"bmp-{mode.lower()}.bmp", _saved(source.convert(mode), "BMP")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"):
        source = layered if mode in ("LA", "RGBA") else image
        converted = Image.frombytes("LAB", (171, 230), image.tobytes()) if mode == "LAB" else None
        yield f"tiff-{mode.lower()}.tiff", _saved(converted or source.convert(mode), "TIFF")
    for compression in ("tiff_lzw", "tiff_deflate", "packbits"):
        yield f"tiff-{compression}.tiff", _saved(image, "TIFF", compression=compression)
    yield "tiff-frames.tiff", _saved(image, "TIFF", save_all=True, append_images=[other])


def _deep(rng: np.random.Generator) -> Iterator[Probe]:
    """Yield 16-bit grey, full range and dark, and the 32-bit modes that the service rejects."""
    for width, height in _DEEP_SIZES:
        size = f"{width}x{height}"
        whole = rng.integers(0, 65_536, (height, width)).astype(np.uint16)
        dark = rng.integers(0, 400, (height, width)).astype(np.uint16)
        for name, values in (("whole", whole), ("dark", dark)):
            yield f"grey-16-{name}-{size}.png", _saved(Image.fromarray(values), "PNG")
            yield f"grey-16-{name}-{size}.tiff", _saved(Image.fromarray(values), "TIFF")
        big = Image.frombytes("I;16B", (width, height), whole.astype(">u2").tobytes())
        yield f"grey-16-big-endian-{size}.tiff", _saved(big, "TIFF")
    numbers = rng.integers(0, 256, (47, 61))
    yield "grey-32.tiff", _saved(Image.fromarray(numbers.astype(np.int32)), "TIFF")
    yield "grey-float.tiff", _saved(Image.fromarray(numbers.astype(np.float32)), "TIFF")


def _photographs(rng: np.random.Generator) -> Iterator[Probe]:
    """Yield the golden probes, and crops of the photographs at random sizes."""
    for name, file in demo_probes().items():
        yield f"photo-{name.removeprefix('golden/')}", file
    for path in PHOTOS:
        with Image.open(path) as photo:
            image = photo.convert("RGB")
        for _ in range(3):
            width, height = (int(side) for side in rng.integers(90, 380, 2))
            left = int(rng.integers(0, max(1, image.width - width)))
            upper = int(rng.integers(0, max(1, image.height - height)))
            crop = image.crop((left, upper, left + width, upper + height))
            name = f"crop-{path.stem}-{crop.width}x{crop.height}.jpg"
            yield name, _saved(crop, "JPEG", quality=90)


def _picture(rng: np.random.Generator, pattern: str, width: int, height: int) -> Array:
    """Return a picture [height, width, 3] of one kind of content."""
    noise: Array = rng.integers(0, 256, (height, width, 3), np.uint8)
    if pattern == "noise":
        return noise
    if pattern == "bilevel":  # the steepest edges, whose overshoot is clipped at 0 and 255
        edges: Array = np.repeat((noise[..., :1] > 127) * np.uint8(255), 3, axis=2)
        return edges
    y, x = np.mgrid[:height, :width]
    if pattern == "text":
        dark = ((x // 3 + y // 7 * 5) % 7 < 2) & (y % 7 < 5)
        colour = np.stack([x * 2, y * 3, x + y], axis=2) % 256
        text: Array = np.where(dark[..., None], 20, 255 - colour // 4).astype(np.uint8)
        return text
    slopes = np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), x + y], axis=2)
    gradient: Array = ((slopes + noise % 3) % 256).astype(np.uint8)
    return gradient


def _plane(rng: np.random.Generator, width: int, height: int) -> Array:
    plane: Array = rng.integers(0, 256, (height, width), np.uint8)
    return plane


def _as_ycck(cmyk: bytes) -> bytes:
    """Mark a CMYK JPEG as YCCK, with the transform flag in Adobe's segment."""
    at = cmyk.find(b"\xff\xee\x00\x0eAdobe")
    if at < 0:
        raise AssertionError("Pillow writes a CMYK JPEG without Adobe's segment")
    flag = at + 4 + 11
    return cmyk[:flag] + b"\x02" + cmyk[flag + 1 :]


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
