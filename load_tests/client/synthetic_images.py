"""Test images: generated, or derived from a few photographs.

Deterministic: the same arguments give the same bytes with the same Pillow and NumPy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

TURN_DEGREES = 7  # additional rotation of each further copy of a photograph
QUALITY = 88
SIZE = (500, 375)
FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True)
class Picture:
    """An encoded image, and a file name whose suffix is its format."""

    name: str
    data: bytes


class Kind(NamedTuple):
    """One size and format of the mix, and its number of images in every ten."""

    width: int
    height: int
    format: str
    of_10: int


MIX = (
    Kind(500, 375, "JPEG", 4),
    Kind(375, 500, "JPEG", 2),
    Kind(1024, 768, "JPEG", 1),
    Kind(1920, 1080, "JPEG", 1),
    Kind(500, 375, "WEBP", 1),
    Kind(320, 240, "PNG", 1),
)


def turned(
    photographs: Sequence[Path], count: int, size: tuple[int, int] = SIZE, quality: int = QUALITY
) -> Iterator[Picture]:
    """Yield `count` JPEGs from photographs: each unchanged, then each rotated by 7°, 14° and so on.

    Cropped to `size` (width, height) by PIL.ImageOps.fit; corners uncovered by the rotation are
    black.
    """
    for i in range(count):
        turn, index = divmod(i, len(photographs))
        with Image.open(photographs[index]) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
        degrees = turn * TURN_DEGREES
        image = ImageOps.fit(
            upright.rotate(degrees, Image.Resampling.BICUBIC), size, Image.Resampling.BICUBIC
        )
        name = f"{photographs[index].stem}-{degrees:03}"
        yield encoded(name, image, "JPEG", quality)


def generated(
    count: int, size: tuple[int, int] = SIZE, quality: int = QUALITY, seed: int = 0
) -> Iterator[Picture]:
    """Yield `count` JPEGs of one size (width, height)."""
    for i in range(count):
        yield encoded(f"generated-{i:03}", scene(*size, seed=seed + i), "JPEG", quality)


def generated_mix(count: int = 10, quality: int = QUALITY, seed: int = 0) -> Iterator[Picture]:
    """Yield `count` images of several sizes and formats in the proportions of MIX."""
    kinds = [kind for kind in MIX for _ in range(kind.of_10)]
    for i in range(count):
        kind = kinds[i % len(kinds)]
        image = scene(kind.width, kind.height, seed=seed + i)
        yield encoded(f"generated-{i:03}", image, kind.format, quality)


def encoded(stem: str, image: Image.Image, format_: str, quality: int) -> Picture:
    """Encode an image in a format of FORMATS; PNG ignores `quality`."""
    buffer = BytesIO()
    image.save(buffer, format_, quality=quality)
    return Picture(f"{stem}.{FORMATS[format_]}", buffer.getvalue())


def scene(width: int, height: int, seed: int) -> Image.Image:
    """Generate an image with gradients, edges and texture, which determine an encoder's work.

    Octaves of smooth noise whose amplitude halves with the scale (about 1/f, as in photographs;
    colour only in the coarse ones), ellipses with hard edges, and fine grain.
    """
    rng = np.random.default_rng(seed)
    light, colour = _octaves(rng, width, height, 1, 70.0), _octaves(rng, width, height, 3, 25.0, 24)
    field = light + colour  # [height, width, RGB]
    for _ in range(6):
        inside = _ellipse(rng, width, height)
        field[inside] = 0.35 * field[inside] + rng.normal(0, 60, 3).astype(np.float32)
    field += 4 * rng.standard_normal(field.shape, np.float32)
    return Image.fromarray(np.clip(field + 120, 0, 255).astype(np.uint8))


def _octaves(
    rng: np.random.Generator,
    width: int,
    height: int,
    channels: int,
    amplitude: float,
    finest: int | None = None,
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:  # [height, width, channels]
    """Return smooth noise on finer and finer grids, each with half the previous amplitude."""
    field = np.zeros((height, width, channels), np.float32)
    cells = 3
    while cells <= (finest or min(width, height) // 2):
        grid = rng.standard_normal((channels, cells, cells), np.float32)
        planes = [
            np.asarray(Image.fromarray(g).resize((width, height), Image.Resampling.BICUBIC))
            for g in grid
        ]
        field += amplitude * np.stack(planes, axis=-1)
        amplitude, cells = amplitude / 2, cells * 2
    return field


def _ellipse(
    rng: np.random.Generator, width: int, height: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:  # [height, width]
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    a, b = rng.uniform(0.05, 0.3, 2) * min(width, height)
    rows, columns = np.ogrid[:height, :width]
    inside: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = ((columns - x) / a) ** 2 + (
        (rows - y) / b
    ) ** 2 < 1
    return inside
