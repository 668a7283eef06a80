"""Patterns and noise: images without anything on them."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from tidegate.models.fitting.drawing.canvas import Picture


def uniform_noise(rng: Generator, height: int, width: int) -> Picture:
    """Return independent levels."""
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def gaussian_noise(rng: Generator, height: int, width: int) -> Picture:
    """Return normal noise around mid-grey."""
    return _clip(127 + rng.uniform(5, 60) * rng.normal(size=(height, width, 3)))


def impulse_noise(rng: Generator, height: int, width: int) -> Picture:
    """Return a flat colour with a share of black and white pixels."""
    picture = flat_colour(rng, height, width)
    drawn, share = rng.random((height, width)), rng.uniform(0.02, 0.4)
    picture[drawn < share] = 255
    picture[drawn < share / 2] = 0
    return picture


def blobs(rng: Generator, height: int, width: int) -> Picture:
    """Return smooth noise."""
    side = int(rng.choice([2, 4, 8, 16, 32]))
    small = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def flat_colour(rng: Generator, height: int, width: int) -> Picture:
    """Return one colour."""
    return np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (height, width, 3)).copy()


def gradient(rng: Generator, height: int, width: int) -> Picture:
    """Return a linear gradient between two colours."""
    ramp = _ramp(rng.uniform(0, 2 * math.pi), height, width)
    first, second = rng.uniform(0, 255, (2, 3))
    return _clip(first + (second - first) * ramp[..., None])


def stripes(rng: Generator, height: int, width: int) -> Picture:
    """Return stripes of two colours in any direction."""
    ramp = _ramp(rng.uniform(0, 2 * math.pi), height, width)
    on = np.sin(2 * math.pi * ramp * rng.uniform(3, 40)) > 0
    first, second = rng.uniform(0, 255, (2, 3))
    return _clip(np.where(on[..., None], first, second))


def checkerboard(rng: Generator, height: int, width: int) -> Picture:
    """Return a board of two colours, often black and white, sometimes with a margin."""
    side = max(1, round(min(height, width) / rng.uniform(4, 24)))
    y, x = np.mgrid[0:height, 0:width]
    on = (y // side + x // side) % 2 == 0
    first, second = (rng.uniform(0, 255, (2, 3)), ((0, 0, 0), (255, 255, 255)))[
        int(rng.random() < 0.6)
    ]
    board = _clip(np.where(on[..., None], first, second))
    if rng.random() < 0.4:
        margin = int(rng.integers(1, max(2, min(height, width) // 5)))
        inside = board[margin:-margin, margin:-margin].copy()
        board[:] = rng.integers(160, 256)
        board[margin:-margin, margin:-margin] = inside
    return board


def _ramp(angle: float, height: int, width: int) -> NDArray[np.float64]:
    """Return values rising from 0 to 1 in the direction of `angle`, [height, width]."""
    y, x = np.mgrid[0:height, 0:width]
    along = x * math.cos(angle) + y * math.sin(angle)
    return (along - along.min()) / np.ptp(along)  # type: ignore[no-any-return]  # numpy's stubs


def _clip(values: NDArray[np.floating]) -> Picture:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
