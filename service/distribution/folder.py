"""A bundle's place in a folder of this machine, such as a network disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tidegate.service.distribution.place import (
    CHUNK_BYTES,
    AccessDenied,
    FileMissing,
    Interrupted,
)


class Folder:
    """The files of one folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def read(self, name: str, start: int = 0) -> Iterator[bytes]:
        """Yield the content of a file from byte `start` on."""
        try:
            with (self._path / name).open("rb") as file:
                file.seek(start)
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError as error:
            raise FileMissing(f"{self._path}: there is no {name}.") from error
        except PermissionError as error:
            raise AccessDenied(f"{self._path}: {name} is not readable for this user.") from error
        except OSError as error:
            raise Interrupted(f"{self._path}: {name} cannot be read: {error.strerror}.") from error
