"""The sha256 that identifies a checkpoint of one file or of several."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tidegate.service.files import sha256_of


def files_sha256(folder: Path, paths: Iterable[Path]) -> str:
    """Return one sha256 over files below `folder`: of what `sha256sum` prints, sorted by path."""
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    listing = "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names)
    return hashlib.sha256(listing.encode()).hexdigest()
