"""Pillow's resize, by the compiled module where it was built: the same pixels, sooner.

`_resample.c` makes only the window that is wanted and takes the CPU's vectors. Where it could not
be compiled, or Pillow's memory is not in one piece, Pillow itself does the work.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidegate.service.imaging.geometry import Scale
from tidegate.service.imaging.jpeg import Source, as_image, size_of

try:
    from tidegate.service.imaging import _resample
except ImportError:  # there was no C compiler when it was installed
    RESIZES_BY = "pillow"
else:
    RESIZES_BY = _resample.PATH

# An image's rows in one block, so that it can be lent as it is; blocks are no larger than needed.
Image.core.set_block_size(1 << 30)  # type: ignore[attr-defined]  # documented all the same

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def resize(source: Source, to: Scale) -> NDArray[np.uint8]:
    """Return what Pillow's crop, resize and crop give of an RGB image: uint8 [height, width, 3]."""
    if RESIZES_BY == "pillow" or to.filter == "nearest":
        return by_pillow(as_image(source), to)
    lent: object = source
    if isinstance(source, Image.Image):
        try:
            _, lent = source.__arrow_c_array__()
        except ValueError:  # its rows are padded or lie in several blocks
            return by_pillow(source, to)
    size = size_of(source)
    box = to.source or (0, 0, *size)
    window = to.window or (0, 0, *to.size)
    made = np.empty((window[3] - window[1], window[2] - window[0], 3), np.uint8)
    _resample.resize(lent, size, box, to.size, to.filter, window, made)
    return made


def by_pillow(image: Image.Image, to: Scale) -> NDArray[np.uint8]:
    """Return the same by Pillow alone."""
    if to.source is not None:
        image = image.crop(to.source)
    image = image.resize(to.size, _FILTERS[to.filter])
    return np.asarray(image if to.window is None else image.crop(to.window))
