"""Write arrays as an .npz file with the same bytes in every Python version."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the content of an .npz file for `numpy.load`.

    `numpy.savez` streams into the archive, and Python releases write different headers for
    streams, so a bundle's digest would depend on the Python version.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            file = io.BytesIO()
            np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy"), file.getvalue()
            )  # the default date, 1980
    return content.getvalue()
