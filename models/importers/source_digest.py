"""The sha256 that identifies a checkpoint of one or several files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tidegate.service.files import sha256_of


def files_sha256(folder: Path, paths: Iterable[Path]) -> str:
    """Return the sha256 of the output of `sha256sum` for files below `folder`, sorted by path."""
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    listing = "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names)
    return hashlib.sha256(listing.encode()).hexdigest()
