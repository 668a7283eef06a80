"""Cover parts of preprocessed pixels, and draw how much a class depends on them. Pure."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.types import Pixels

Grid = NDArray[np.float64]  # [grid, grid], rows from the top
PATCH_CELLS = 2  # side of a patch, in cells: neighbouring patches overlap, which smooths the map
_LEAST_ODDS = 1e-12  # probabilities are at least this far from 0 and 1
_FOR, _AGAINST = (255, 106, 0), (38, 110, 255)  # RGB
_MOST_COVER = 0.75  # of the picture's colour, where a part matters most
_LEAST_SCALE = 0.1  # in log-odds: a map without any larger change stays pale


@dataclass(frozen=True, slots=True)
class Patch:
    """The rows and columns that are covered for one cell of the grid."""

    rows: slice
    columns: slice


def patches(height: int, width: int, grid: int) -> Iterator[Patch]:
    """Yield the patch of each cell, row by row: the cell and half a cell around it."""
    for row in range(grid):
        for column in range(grid):
            yield Patch(_span(row, grid, height), _span(column, grid, width))


def _span(cell: int, grid: int, side: int) -> slice:
    around = (PATCH_CELLS - 1) / 2
    start, end = ((cell - around) * side / grid, (cell + 1 + around) * side / grid)
    return slice(max(0, round(start)), min(side, round(end)))


def fill_of(spec: PreprocessSpec) -> tuple[int, int, int]:
    """Return the pixel that the network's normalisation makes 0, in the spec's channel order."""
    red, green, blue = (min(255, max(0, round(mean / spec.scale))) for mean in spec.mean)
    return red, green, blue


def covered(pixels: Pixels, patch: Patch, fill: tuple[int, int, int]) -> Pixels:
    """Return a copy of uint8 [H, W, 3] in which a patch has one colour."""
    copy = pixels.copy()
    copy[patch.rows, patch.columns] = fill
    return Pixels(copy)


def fall_of_log_odds(probability: float, with_cover: Grid) -> Grid:
    """Return how much the log-odds of a class fall when each part is covered.

    Unlike the probability's fall, it shows differences where the network is nearly certain.
    """
    return np.asarray(_log_odds(np.float64(probability)) - _log_odds(with_cover))


def _log_odds(p: np.float64 | Grid) -> np.float64 | Grid:
    clipped = np.clip(p, _LEAST_ODDS, 1 - _LEAST_ODDS)
    return np.asarray(np.log(clipped / (1 - clipped)))


def heat_map(pixels: Pixels, falls: Grid, spec: PreprocessSpec) -> Pixels:
    """Return RGB [H, W, 3]: the picture, orange where a part supports the class, blue against."""
    height, width, _ = pixels.shape
    grey = _rgb(pixels, spec).mean(axis=2, keepdims=True)
    strongest = max(float(np.abs(falls).max()), _LEAST_SCALE)
    small = Image.fromarray((falls / strongest).astype(np.float32))
    strength = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))[:, :, None]
    colour = np.where(strength >= 0, np.array(_FOR), np.array(_AGAINST))
    cover = _MOST_COVER * np.clip(np.abs(strength), 0, 1)
    return Pixels(np.rint(grey * (1 - cover) + colour * cover).astype(np.uint8))


def picture(pixels: Pixels, spec: PreprocessSpec) -> Pixels:
    """Return preprocessed pixels in the order red, green, blue."""
    return Pixels(np.ascontiguousarray(_rgb(pixels, spec)))


def png(rgb: Pixels) -> bytes:
    """Return RGB pixels as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG")
    return file.getvalue()


def _rgb(pixels: Pixels, spec: PreprocessSpec) -> NDArray[np.uint8]:
    return pixels[:, :, ::-1] if spec.channel_order == "bgr" else pixels
