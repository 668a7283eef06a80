"""A canvas with random colours, words and type sizes, which every drawn kind shares.

The typeface is the one that Pillow contains, so nothing is installed and every machine draws the
same.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]  # [H, W, 3]
Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_ONSETS = ("b", "c", "d", "f", "g", "l", "m", "n", "p", "r", "s", "t", "v", "st", "tr", "pl", "ch")
_VOWELS = ("a", "e", "i", "o", "u", "ea", "ou", "io")
_CODAS = ("", "", "n", "r", "s", "t", "l", "nd", "st", "ng")


@dataclass(frozen=True, slots=True)
class Canvas:
    """An image that is being drawn, with its paper and ink."""

    image: Image.Image
    draw: ImageDraw.ImageDraw
    rng: Generator
    dark: bool
    paper: Colour
    ink: Colour

    @classmethod
    def new(cls, rng: Generator, height: int, width: int, dark_share: float = 0.0) -> Canvas:
        """Return an empty canvas; `dark_share` is the probability of light ink on dark paper."""
        dark = bool(rng.random() < dark_share)
        paper = tint(rng, 0.08, 0.25) if dark else tint(rng, 0.9, 1.0)
        ink = tint(rng, 0.8, 1.0) if dark else tint(rng, 0.0, 0.3)
        image = Image.new("RGB", (width, height), paper)
        return cls(image, ImageDraw.Draw(image), rng, dark, paper, ink)

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height."""
        return self.image.size

    @property
    def picture(self) -> Picture:
        """Return the pixels."""
        return np.asarray(self.image)

    def mix(self, share: float) -> Colour:
        """Return the paper's colour with a share of ink: 0 is paper, 1 is ink."""
        pairs = zip(self.paper, self.ink, strict=True)
        red, green, blue = (round(p + share * (i - p)) for p, i in pairs)
        return red, green, blue

    def text(self, x: float, y: float, content: str, size: int, colour: Colour) -> float:
        """Write one line with its top left corner at (x, y), and return its width."""
        font = typeface(size)
        self.draw.text((x, y), content, fill=colour, font=font)
        return self.draw.textlength(content, font=font)

    def paragraph(
        self, box: tuple[float, float, float, float], size: int, colour: Colour, words: int
    ) -> float:
        """Write about `words` words inside (left, top, right, bottom); return where it ends."""
        left, top, right, bottom = box
        font, line = typeface(size), ""
        y, step = top, size * 1.4
        for _ in range(words):
            if y + step > bottom:
                return y
            longer = f"{line} {word(self.rng)}".strip()
            if line and self.draw.textlength(longer, font=font) > right - left:
                self.draw.text((left, y), line, fill=colour, font=font)
                y, line = y + step, longer.rsplit(" ", 1)[1]
            else:
                line = longer
        self.draw.text((left, y), line, fill=colour, font=font)
        return y + step


@cache
def typeface(size: int) -> Font:
    """Return Pillow's own typeface in a size in pixels."""
    return ImageFont.load_default(size)


def word(rng: Generator) -> str:
    """Return an invented word, or sometimes a number."""
    if rng.random() < 0.08:
        return str(rng.integers(0, 2000))
    parts = [_pick(rng, _ONSETS) + _pick(rng, _VOWELS) for _ in range(rng.integers(1, 4))]
    return "".join(parts) + _pick(rng, _CODAS)


def title(rng: Generator, words: int) -> str:
    """Return invented words, the first with a capital."""
    return " ".join(word(rng) for _ in range(words)).capitalize()


def tint(rng: Generator, darkest: float, lightest: float) -> Colour:
    """Return a grey or a slightly coloured grey with a lightness in 0…1."""
    saturation = 0.0 if rng.random() < 0.5 else rng.uniform(0, 0.25)
    return _rgb(rng.random(), rng.uniform(darkest, lightest), saturation)


def vivid(rng: Generator) -> Colour:
    """Return a saturated colour."""
    return _rgb(rng.random(), rng.uniform(0.35, 0.7), rng.uniform(0.5, 1.0))


def _rgb(hue: float, lightness: float, saturation: float) -> Colour:
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def _pick(rng: Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]
