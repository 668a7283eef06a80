"""Arrays as the content of an .npz file, of the same bytes whatever Python writes them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return what `numpy.load` reads back.

    `numpy.savez` streams into the archive, for which Python's releases write other headers, so
    that a bundle's digest would tell them apart.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            file = io.BytesIO()
            np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), file.getvalue())  # dated 1980
    return content.getvalue()
