"""A file of lines that a thread writes, and that may be rotated at any time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from tidegate.service.logs import LineQueue

_MODE = 0o640


class LineFile(LineQueue):
    """Appends to a path. If the file there is moved or deleted, it is created again.

    So logrotate needs no signal, with `create` as well as with `copytruncate`.
    """

    def __init__(self, path: Path, notice: Callable[[int], bytes]) -> None:
        """`notice` returns the line that reports dropped lines. Raises OSError."""
        self._path = path
        super().__init__(_open(path), notice)

    def _write_some(self, data: bytes) -> int:
        if not self._is_current():
            with contextlib.suppress(OSError):  # then the old file gets the lines
                new = _open(self._path)
                os.close(self._descriptor)
                self._descriptor = new
        return super()._write_some(data)

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except OSError:
            return False


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
