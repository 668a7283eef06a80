"""Convert every pixel mode to RGB, by the spec's rules, in bands of rows.

Each rule uses a single pixel, so bands give the same result as the whole image. A large image with
alpha takes 20 bytes per pixel if it is converted at once; in bands it takes 8, and less time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from tidegate.service.errors import UnsupportedImageType
from tidegate.service.imaging.spec import PreprocessSpec

_BAND_PIXELS = 1 << 18  # 1 MB of RGBA, so that intermediate images fit in the CPU cache
_COMPOSITE = {"composite-white": (255, 255, 255, 255), "composite-black": (0, 0, 0, 255)}

_Rule = Callable[[Image.Image], Image.Image]


def to_rgb(image: Image.Image, spec: PreprocessSpec) -> Image.Image:
    """Return `image` as RGB by the spec's mode rules. Raises UnsupportedImageType."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F"):
        raise UnsupportedImageType(
            "Images of 32-bit integers or floats have no standard range; "
            "send 8 or 16 bits per channel."
        )
    return _in_bands(image, _rule(image, spec))


def _rule(image: Image.Image, spec: PreprocessSpec) -> _Rule:
    if image.mode.startswith("I;16"):
        return lambda band: _from_sixteen_bit(band, spec)
    if spec.alpha != "drop" and image.has_transparency_data:
        return lambda band: _composite(band, _COMPOSITE[spec.alpha])
    if image.mode == "P" and "transparency" in image.info:
        return lambda band: band.convert("RGBA").convert("RGB")
    return lambda band: band.convert("RGB")


def _in_bands(image: Image.Image, rule: _Rule) -> Image.Image:
    width, height = image.size
    rows = max(1, _BAND_PIXELS // width)
    if rows >= height:
        return rule(image)
    result = Image.new("RGB", image.size, None)  # not cleared: every row is pasted
    for top in range(0, height, rows):
        box = (0, top, width, min(height, top + rows))
        result.paste(rule(image.crop(box)), box)
    return result


def _composite(band: Image.Image, ground: tuple[int, int, int, int]) -> Image.Image:
    layer = band.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, ground), layer).convert("RGB")


def _from_sixteen_bit(band: Image.Image, spec: PreprocessSpec) -> Image.Image:
    values = np.asarray(band)
    eight = np.minimum(values, 255) if spec.sixteen_bit == "clip" else values >> 8
    if spec.alpha != "drop" and "transparency" in band.info:  # a PNG's level, in 16 bits
        ground, *_ = _COMPOSITE[spec.alpha]
        eight = np.where(values == band.info["transparency"], ground, eight)
    return Image.fromarray(eight.astype(np.uint8)).convert("RGB")
