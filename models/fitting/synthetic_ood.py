"""Synthetic OOD images, which any gate should reject: noise, documents, screens, drawings.

Every kind has its own seeded generator and several image sizes, as resizing changes how an image
looks to the model. The seeds for choosing and for the report differ. Some kinds are only for the
report: a fit that sees the others must not be measured on its own kinds alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.random import Generator
from PIL import Image

from tidegate.models.fitting.drawing import charts, documents, drawings, patterns, screens
from tidegate.models.fitting.drawing.canvas import Picture
from tidegate.service.imaging.preprocess import apply
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.types import Pixels

SELECTION_SEED, REPORT_SEED = 1, 2
SHUFFLED = "shuffled patches"  # of photographs, which `shuffled` is given
Sizes = tuple[tuple[int, int], ...]  # (height, width)
_SMALL: Sizes = ((224, 224), (256, 256), (240, 320), (480, 640))
_SCREENS: Sizes = ((480, 640), (600, 800), (720, 480), (540, 960))
_PAGES: Sizes = ((800, 600), (640, 480), (480, 640), (900, 640))
_SQUARES: Sizes = ((128, 128), (256, 256), (192, 192), (320, 320))


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of image."""

    group: str
    draw: Callable[[Generator, int, int], Picture]  # (generator, height, width)
    sizes: Sizes
    in_fit: bool = True  # False: only for the report


PATTERNS = "noise and patterns"
KINDS: dict[str, Kind] = {
    "uniform noise": Kind(PATTERNS, patterns.uniform_noise, _SMALL),
    "gaussian noise": Kind(PATTERNS, patterns.gaussian_noise, _SMALL),
    "impulse noise": Kind(PATTERNS, patterns.impulse_noise, _SMALL, in_fit=False),
    "blobs": Kind(PATTERNS, patterns.blobs, _SMALL),
    "flat colours": Kind(PATTERNS, patterns.flat_colour, _SMALL),
    "gradients": Kind(PATTERNS, patterns.gradient, _SMALL),
    "stripes": Kind(PATTERNS, patterns.stripes, _SMALL, in_fit=False),
    "checkerboards": Kind(PATTERNS, patterns.checkerboard, _SMALL),
    "text": Kind("documents", documents.text, _SMALL),
    "pages": Kind("documents", documents.page, _PAGES),
    "tables": Kind("documents", documents.table, _PAGES, in_fit=False),
    "windows": Kind("screens", screens.window, _SCREENS),
    "messages": Kind("screens", screens.messages, _SCREENS),
    "dialogs": Kind("screens", screens.dialog, _SCREENS, in_fit=False),
    "line charts": Kind("charts", charts.lines, _SCREENS),
    "bar charts": Kind("charts", charts.bars, _SCREENS),
    "scatter plots": Kind("charts", charts.scatter, _SCREENS, in_fit=False),
    "pie charts": Kind("charts", charts.pie, _SCREENS, in_fit=False),
    "emoji": Kind("drawings", drawings.emoji, _SQUARES),
    "line drawings": Kind("drawings", drawings.line_drawing, _SMALL),
    "icons": Kind("drawings", drawings.icon, _SQUARES, in_fit=False),
    "star charts": Kind("drawings", drawings.star_chart, _SCREENS, in_fit=False),
}
FIT_KINDS = tuple(name for name, kind in KINDS.items() if kind.in_fit)


def generate(kind: str, count: int, seed: int, spec: PreprocessSpec) -> list[Pixels]:
    """Return `count` images of one of `KINDS`, preprocessed by `spec`; more only add to the end."""
    drawn = KINDS[kind]
    rng = np.random.default_rng([seed, crc32(kind.encode())])
    pictures = [drawn.draw(rng, *drawn.sizes[index % len(drawn.sizes)]) for index in range(count)]
    return [apply(Image.fromarray(picture), spec) for picture in pictures]


def shuffled(photographs: list[Pixels], seed: int) -> list[Pixels]:
    """Return each photograph cut into 8 × 8 patches in random order."""
    rng = np.random.default_rng(seed)
    return [Pixels(_shuffle(pixels, rng)) for pixels in photographs]


def _shuffle(pixels: Pixels, rng: Generator, n: int = 8) -> Picture:
    height, width = pixels.shape[0] // n, pixels.shape[1] // n  # of a patch
    mixed = pixels.copy()  # the remainder at the end is unchanged
    inner = mixed[: n * height, : n * width]
    patches = inner.reshape(n, height, n, width, 3).transpose(0, 2, 1, 3, 4)
    patches = patches.reshape(n * n, height, width, 3)[rng.permutation(n * n)]
    grid = patches.reshape(n, n, height, width, 3).transpose(0, 2, 1, 3, 4)
    inner[:] = grid.reshape(inner.shape)
    return mixed
