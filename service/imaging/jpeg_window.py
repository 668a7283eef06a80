"""Decode only a part of a JPEG, by the compiled module `_jpeg.c` if it was built.

It uses the libjpeg-turbo in Pillow's wheel: the pixels of the part are those of the whole image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from tidegate.service.imaging.geometry import Box, Size


def _open() -> bool:
    """Open the library of Pillow's wheel; False if Pillow was installed in another way."""
    libraries = Path(PIL.__file__).parents[1] / "pillow.libs"
    found = sorted(libraries.glob("libjpeg-*.so.62*"))
    if len(found) != 1:
        return False
    try:
        _jpeg.open(str(found[0]))
    except ImportError:
        return False
    return True


try:
    from tidegate.service.imaging import _jpeg
except ImportError:  # installed without a C compiler or without the headers of libjpeg-turbo
    AVAILABLE = False
else:
    AVAILABLE = _open()


def decode_window(data: bytes, size: Size, window: Box) -> tuple[NDArray[np.uint8], str]:
    """Decode the box `window` of a JPEG of `size`, if AVAILABLE.

    Returns uint8 [height, width, 4] of the whole size, of which only the window has meaning, and
    libjpeg's error or first warning, or "".
    """
    pixels = np.empty((size[1], size[0], 4), np.uint8)
    return pixels, _jpeg.decode(data, size, window, pixels)
