"""Input statistics: brightness, contrast and blur of an image's preprocessed pixels.

Luma is that of ITU-R BT.601, as in JPEG. Blur is the variance of the Laplacian (Pech-Pacheco et
al., "Diatom autofocusing in brightfield microscopy", 2000), as a decimal logarithm.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from tidegate.service.types import Pixels

# Below the smallest variance of interest: a single pixel one level off in 224 × 224 gives −8.2.
BLUR_FLOOR = -9.0
# In thousandths of a level, luma and its Laplacian are whole numbers that float32 stores exactly,
# so no library's order of addition matters; they are scaled only at the end.
_LUMA = np.array([299, 587, 114], np.float32)
_WHITE = 255_000.0
# Pillow's names of pixel modes; an unknown mode has the index after the last.
MODES = ("RGB", "L", "RGBA", "P", "LA", "CMYK", "1", "I;16", "I", "F")
_LUMA_BGR = np.ascontiguousarray(_LUMA[::-1])


@dataclass(frozen=True, slots=True)
class InputStatistics:
    """Three dimensionless statistics of one image."""

    brightness: float  # mean of luma, 0 (black) to 1 (white)
    contrast: float  # standard deviation of luma, 0 to 0.5
    blur: float  # log10 of the variance of the Laplacian of luma: lower is more blurred


def input_statistics(pixels: Pixels, channel_order: Literal["rgb", "bgr"]) -> InputStatistics:
    """Return the statistics of preprocessed pixels, uint8 [H, W, 3] in `channel_order`.

    Blur is at least BLUR_FLOOR, and BLUR_FLOOR for an image with a side under 3 pixels. It is
    measured on preprocessed pixels, so it is comparable only for the same preprocessing.
    """
    luma = pixels.astype(np.float32) @ (_LUMA if channel_order == "rgb" else _LUMA_BGR)
    variance = 0.0
    if min(luma.shape) >= 3:
        edges = luma[:-2, 1:-1] + luma[2:, 1:-1]
        edges += luma[1:-1, :-2]
        edges += luma[1:-1, 2:]
        edges -= 4 * luma[1:-1, 1:-1]
        variance = float(edges.var(dtype=np.float64)) / _WHITE**2
    blur = float(np.log10(max(variance, 10.0**BLUR_FLOOR)))
    mean, deviation = luma.mean(dtype=np.float64), luma.std(dtype=np.float64)
    return InputStatistics(float(mean) / _WHITE, float(deviation) / _WHITE, blur)


def input_sample(
    data: bytes, pixels: Pixels, channel_order: Literal["rgb", "bgr"]
) -> dict[str, float]:
    """Return the statistics of an image that could be decoded, and of its file's header.

    The keys are those of a bundle's reference. In addition to `input_statistics`: megapixels,
    aspect (width / height), file bytes per pixel, and the mode as an index into MODES.
    """
    seen = input_statistics(pixels, channel_order)
    with Image.open(io.BytesIO(data)) as image:  # reads only the header
        (width, height), mode = image.size, image.mode
    return {
        "brightness": seen.brightness,
        "contrast": seen.contrast,
        "blur": seen.blur,
        "megapixels": width * height / 1e6,
        "aspect": width / height,
        "bytes_per_pixel": len(data) / (width * height),
        "mode": MODES.index(mode) if mode in MODES else len(MODES),
    }
