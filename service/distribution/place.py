"""What a place that has bundles can do, and how its failures are distinguished."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from tidegate.service.errors import TransferFailed

Progress = Callable[[int], None]  # gets the number of bytes since the last call
CHUNK_BYTES = 1 << 20


class FileMissing(TransferFailed):
    """There is no such file at the place."""


class AccessDenied(TransferFailed):
    """The place rejects the credentials, or there are none."""


class Interrupted(TransferFailed):
    """The transfer broke off, or the place did not answer: another attempt may continue."""


class Place(Protocol):
    """Where a bundle is: a folder, a prefix in an object store, or an artifact in a registry."""

    def read(self, name: str, start: int = 0) -> Iterator[bytes]:
        """Yield the content of a file from byte `start` on.

        Raises FileMissing, AccessDenied or Interrupted, also between two chunks.
        """
        ...


class RemotePlace(Place, Protocol):
    """A place to which bundles are uploaded."""

    def publish(self, folder: Path, names: Sequence[str], progress: Progress) -> None:
        """Upload the files `names` of `folder` in this order; the last one makes them a bundle.

        Raises TransferFailed.
        """
        ...


def read_small(place: Place, name: str, most_bytes: int) -> bytes:
    """Return the content of a file; never reads much more than `most_bytes`.

    Raises TransferFailed if it is larger, or what `read` raises.
    """
    content = bytearray()
    for chunk in place.read(name):
        content += chunk
        if len(content) > most_bytes:
            raise TransferFailed(f"{place}: {name} is larger than {most_bytes:,} bytes.")
    return bytes(content)
