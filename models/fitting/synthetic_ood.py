"""Synthetic OOD images that show no object, such as noise, which any gate should reject.

Every kind has its own seeded generator and several image sizes, as resizing changes how noise looks
to the model. The seeds for choosing the temperature and for the report differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from tidegate.service.imaging.preprocess import apply
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.types import Pixels

SELECTION_SEED, REPORT_SEED = 1, 2
Picture = NDArray[np.uint8]  # [H, W, 3]
_SIZES = ((224, 224), (256, 256), (240, 320), (480, 640))  # (height, width)


def generate(kind: str, count: int, seed: int, spec: PreprocessSpec) -> list[Pixels]:
    """Return `count` images of one of `KINDS`, preprocessed by `spec`."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    pictures = [KINDS[kind](rng, *_SIZES[index % len(_SIZES)]) for index in range(count)]
    return [apply(Image.fromarray(picture), spec) for picture in pictures]


def shuffled(photographs: list[Pixels], seed: int) -> list[Pixels]:
    """Return each photograph cut into 8 × 8 patches in random order."""
    rng = np.random.default_rng(seed)
    return [Pixels(_shuffle(pixels, rng)) for pixels in photographs]


def _uniform_noise(rng: Generator, height: int, width: int) -> Picture:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _gaussian_noise(rng: Generator, height: int, width: int) -> Picture:
    return _clip(127 + rng.uniform(5, 60) * rng.normal(size=(height, width, 3)))


def _blobs(rng: Generator, height: int, width: int) -> Picture:
    side = int(rng.choice([2, 4, 8, 16, 32]))
    small = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def _flat_colour(rng: Generator, height: int, width: int) -> Picture:
    return np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (height, width, 3)).copy()


def _gradient(rng: Generator, height: int, width: int) -> Picture:
    ramp = _ramp(rng.uniform(0, 2 * math.pi), height, width)
    first, second = rng.uniform(0, 255, (2, 3))
    return _clip(first + (second - first) * ramp[..., None])


def _stripes(rng: Generator, height: int, width: int) -> Picture:
    ramp = _ramp(rng.uniform(0, 2 * math.pi), height, width)
    on = np.sin(2 * math.pi * ramp * rng.uniform(3, 40)) > 0
    first, second = rng.uniform(0, 255, (2, 3))
    return _clip(np.where(on[..., None], first, second))


KINDS: dict[str, Callable[[Generator, int, int], Picture]] = {
    "uniform noise": _uniform_noise,
    "gaussian noise": _gaussian_noise,
    "blobs": _blobs,
    "flat colours": _flat_colour,
    "gradients": _gradient,
    "stripes": _stripes,
}


def _ramp(angle: float, height: int, width: int) -> NDArray[np.float64]:
    """Return values rising from 0 to 1 in the direction of `angle`, [height, width]."""
    y, x = np.mgrid[0:height, 0:width]
    along = x * math.cos(angle) + y * math.sin(angle)
    return (along - along.min()) / np.ptp(along)  # type: ignore[no-any-return]  # numpy's stubs


def _shuffle(pixels: Pixels, rng: Generator, n: int = 8) -> Picture:
    height, width = pixels.shape[0] // n, pixels.shape[1] // n  # of a patch
    mixed = pixels.copy()  # the remainder at the end is unchanged
    inner = mixed[: n * height, : n * width]
    patches = inner.reshape(n, height, n, width, 3).transpose(0, 2, 1, 3, 4)
    patches = patches.reshape(n * n, height, width, 3)[rng.permutation(n * n)]
    grid = patches.reshape(n, n, height, width, 3).transpose(0, 2, 1, 3, 4)
    inner[:] = grid.reshape(inner.shape)
    return mixed


def _clip(values: NDArray[np.floating]) -> Picture:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
