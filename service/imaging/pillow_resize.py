"""Pillow's resize, by the compiled module if it was built: the same pixels, faster.

`_resample.c` computes only the requested window and uses vector instructions. If it could not be
compiled, or the image is not contiguous in memory, Pillow itself resizes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidegate.service.imaging.geometry import Box, Scale, Size
from tidegate.service.imaging.jpeg import Source, as_image, size_of
from tidegate.service.imaging.spec import Filter

try:
    from tidegate.service.imaging import _resample
except ImportError:  # installed without a C compiler
    RESIZES_BY = "pillow"
else:
    RESIZES_BY = _resample.PATH

_SUPPORT = {"box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0, "lanczos": 3.0}

# Allocate an image in one block, so that it can be shared without a copy. Pillow allocates only
# what an image needs.
Image.core.set_block_size(1 << 30)  # type: ignore[attr-defined]  # documented by Pillow


def resize(source: Source, to: Scale) -> NDArray[np.uint8]:
    """Return the result of Pillow's crop, resize and crop of an RGB image: uint8 [H, W, 3]."""
    if RESIZES_BY == "pillow" or to.filter == "nearest":
        return by_pillow(as_image(source), to)
    shared: object = source
    if isinstance(source, Image.Image):
        try:
            _, shared = source.__arrow_c_array__()
        except ValueError:  # its rows are padded, or it consists of several blocks
            return by_pillow(source, to)
    size = size_of(source)
    box = to.source or (0, 0, *size)
    window = to.window or (0, 0, *to.size)
    made = np.empty((window[3] - window[1], window[2] - window[0], 3), np.uint8)
    _resample.resize(shared, size, box, to.size, to.filter, window, made)
    return made


def reads(to: Scale, size: Size) -> Box | None:
    """Return the part of an image of `size` that `resize` reads; None if it may read all."""
    if to.backend != "pillow" or RESIZES_BY == "pillow" or to.filter == "nearest":
        return None
    box = to.source or (0, 0, *size)
    window = to.window or (0, 0, *to.size)
    left, right = _reads(box[2] - box[0], to.size[0], window[0], window[2], to.filter)
    upper, lower = _reads(box[3] - box[1], to.size[1], window[1], window[3], to.filter)
    read = box[0] + left, box[1] + upper, box[0] + right, box[1] + lower
    return None if read == (0, 0, *size) else read


def _reads(length: int, made: int, first: int, end: int, by: Filter) -> tuple[int, int]:
    """Return the pixels of one axis, from and to, that the resized pixels `first` to `end` need.

    It is a pixel more than the filter's support, whatever the rounding.
    """
    scale = length / made
    support = _SUPPORT[by] * max(scale, 1.0) + 1
    begin = math.floor((first + 0.5) * scale - support)
    return max(0, begin), min(length, math.ceil((end - 0.5) * scale + support))


def by_pillow(image: Image.Image, to: Scale) -> NDArray[np.uint8]:
    """Return the same result, using only Pillow."""
    if to.source is not None:
        image = image.crop(to.source)
    image = image.resize(to.size, Image.Resampling[to.filter.upper()])
    return np.asarray(image if to.window is None else image.crop(to.window))
