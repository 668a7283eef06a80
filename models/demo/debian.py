"""Fetch a pinned Debian package and read its files in memory; nothing is installed."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tidegate.models.errors import BuildRefused
from tidegate.service.files import sha256_of

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_DOWNLOAD_TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True)
class Package:
    """One version of one package, identified by the digest of its .deb."""

    name: str
    version: str
    sha256: str
    architecture: str = "all"

    @property
    def filename(self) -> str:
        """Return the file's name as apt-get writes it."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


def fetch(package: Package, folder: Path) -> Path:
    """Return the verified .deb in `folder`, fetching it with `apt-get download` if missing.

    Raises BuildRefused if it cannot be fetched or is not the pinned file.
    """
    path = folder / package.filename
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["apt-get", "download", f"{package.name}={package.version}"]
        try:
            subprocess.run(command, cwd=folder, check=True, timeout=_DOWNLOAD_TIMEOUT_S)  # noqa: S603
        except (OSError, subprocess.SubprocessError) as error:
            raise BuildRefused(
                f"apt-get could not fetch {package.filename}: download it by other means and give "
                "its folder with --packages."
            ) from error
    if not path.exists() or sha256_of(path) != package.sha256:
        raise BuildRefused(f"{path} is not the pinned {package.filename}.")
    return path


def files(deb: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path without leading "./", content) of every regular file in a .deb."""
    data = _data_member(deb.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as archive:
        for member in archive:
            if member.isfile() and (reader := archive.extractfile(member)) is not None:
                yield member.name.removeprefix("./"), reader.read()


def _data_member(content: bytes) -> bytes:
    """Return data.tar.* of a .deb, which is an ar archive (deb(5))."""
    at = len(_AR_MAGIC)
    while content.startswith(_AR_MAGIC) and at + _AR_HEADER <= len(content):
        header = content[at : at + _AR_HEADER]
        size = int(header[48:58])
        if header[:16].startswith(b"data.tar"):
            return content[at + _AR_HEADER : at + _AR_HEADER + size]
        at += _AR_HEADER + size + size % 2
    raise BuildRefused("This .deb has no data.tar.")
