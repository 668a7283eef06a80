"""Rows of float32 on disk, read through a memory map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

CHUNK = 4096  # rows at a time: 32 MB of float64 at 1,000 columns
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class RowWriter:
    """Appends rows of one width to a file; a context manager."""

    def __init__(self, path: Path, width: int) -> None:
        self._path = path
        self._width = width
        self._file = path.open("xb")

    def append(self, row: Float32) -> None:
        """Add one row, [width]."""
        if row.shape != (self._width,) or row.dtype != np.float32:
            raise ValueError(f"a row of {row.dtype} {row.shape} among float32 [{self._width}]")
        self._file.write(row.tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def rows(self) -> Float32:
        """Return all rows as a read-only memory map, [n, width]; the writer must be closed."""
        if not self._path.stat().st_size:
            return np.empty((0, self._width), np.float32)
        return np.memmap(self._path, np.float32, "r").reshape(-1, self._width)


def chunks(*arrays: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    """Yield successive chunks of `CHUNK` rows, the same rows of each array."""
    for start in range(0, len(arrays[0]), CHUNK):
        yield tuple(array[start : start + CHUNK] for array in arrays)
