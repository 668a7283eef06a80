"""Pillow's resize, by the compiled module if it was built: the same pixels, faster.

`_resample.c` computes only the requested window and uses vector instructions. If it could not be
compiled, or the image is not contiguous in memory, Pillow itself resizes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidegate.service.imaging.geometry import Scale
from tidegate.service.imaging.jpeg import Source, as_image, size_of

try:
    from tidegate.service.imaging import _resample
except ImportError:  # installed without a C compiler
    RESIZES_BY = "pillow"
else:
    RESIZES_BY = _resample.PATH

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


def by_pillow(image: Image.Image, to: Scale) -> NDArray[np.uint8]:
    """Return the same result, using only Pillow."""
    if to.source is not None:
        image = image.crop(to.source)
    image = image.resize(to.size, Image.Resampling[to.filter.upper()])
    return np.asarray(image if to.window is None else image.crop(to.window))
