"""The luminance of RGB pixels, as Pillow and OpenCV compute it: integer weights, rounded once."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

# Weights of red, green and blue, and the number of their fractional bits. Pillow: convert("L");
# OpenCV: COLOR_RGB2GRAY of uint8.
_WEIGHTS = {"pillow": ((19595, 38470, 7471), 16), "cv2": ((9798, 19235, 3735), 15)}


def replicated(pixels: NDArray[np.uint8], by: Literal["pillow", "cv2"]) -> NDArray[np.uint8]:
    """Return the luminance of `pixels` [H, W, 3] in all three channels, uint8 [H, W, 3]."""
    weights, bits = _WEIGHTS[by]
    total = np.full(pixels.shape[:2], 1 << (bits - 1), np.uint32)
    for channel, weight in enumerate(weights):
        total += pixels[..., channel] * np.uint32(weight)
    grey = (total >> bits).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
