"""Open a bundle from its folder, verifying every byte, and refuse what differs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from service.bundle.manifest import Manifest
from service.errors import BundleRefused
from service.ood.gates import Gate

MANIFEST = "manifest.json"
MODEL = "model.onnx"
LABELS = "labels.txt"
CALIBRATION = "calibration.npz"
GOLDEN = "golden/expected.npz"
CARD = "MODEL_CARD.md"
REQUIRED = (MODEL, LABELS, CALIBRATION, GOLDEN, CARD)
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle: what it says, what its classes are called, and its gate."""

    path: Path
    manifest: Manifest
    digest: str
    labels: tuple[str, ...]
    gate: Gate

    @property
    def model_path(self) -> Path:
        """Return the sealed graph's file."""
        return self.path / MODEL


def open_bundle(path: Path) -> Bundle:
    """Open the bundle in folder `path`, checking every file against the manifest.

    Raises BundleRefused, naming the file, when one is missing, changed or not listed.
    """
    manifest = _read_manifest(path)
    _check_files(path, manifest)
    return Bundle(
        path=path,
        manifest=manifest,
        digest=manifest.digest,
        labels=_read_labels(path, manifest),
        gate=_read_gate(path, manifest),
    )


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_arrays(path: Path, name: str, fields: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays `fields` of the archive `name` in the bundle at `path`.

    Raises BundleRefused, naming the archive, when it is none or lacks one of them.
    """
    try:
        with np.load(path / name, allow_pickle=False) as arrays:
            return {field: arrays[field] for field in fields}
    except KeyError as error:
        raise BundleRefused(f"{path}: {name} lacks {error}.") from error
    except (BadZipFile, EOFError, OSError, TypeError, ValueError) as error:
        raise BundleRefused(f"{path}: {name} is not an archive of arrays: {error}") from error


def _read_manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise BundleRefused(f"There is no bundle folder at {path}.")
    try:
        content = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleRefused(f"{path}: {MANIFEST} cannot be read: {error.strerror}.") from error
    try:
        return Manifest.from_file(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleRefused(f"{path}: {MANIFEST} is refused: {where}: {first['msg']}.") from error
    except ValueError as error:  # not JSON, not UTF-8, or not what was sealed
        raise BundleRefused(
            f"{path}: {MANIFEST} has changed since it was sealed: {error}."
        ) from error


def _check_files(path: Path, manifest: Manifest) -> None:
    if missing := [name for name in REQUIRED if name not in manifest.files]:
        raise BundleRefused(f"{path}: {MANIFEST} does not list {missing[0]}.")
    items = {item.relative_to(path).as_posix(): item for item in path.rglob("*")}
    if links := sorted(name for name, item in items.items() if item.is_symlink()):
        raise BundleRefused(f"{path}: {links[0]} is a link; a bundle holds its own bytes.")
    found = {name for name, item in items.items() if not item.is_dir()}
    if extra := sorted(found - manifest.files.keys() - {MANIFEST}):
        raise BundleRefused(f"{path}: {extra[0]} is not part of the bundle.")
    for name, file in manifest.files.items():
        if name not in found:
            raise BundleRefused(f"{path}: {name} is missing.")
        if (path / name).stat().st_size != file.bytes or sha256_of(path / name) != file.sha256:
            raise BundleRefused(f"{path}: {name} has changed since it was sealed.")


def _read_labels(path: Path, manifest: Manifest) -> tuple[str, ...]:
    try:
        labels = tuple((path / LABELS).read_text("utf-8").removesuffix("\n").split("\n"))
    except UnicodeDecodeError as error:
        raise BundleRefused(f"{path}: {LABELS} is not UTF-8.") from error
    if len(labels) != manifest.task.classes:
        raise BundleRefused(
            f"{path}: {LABELS} has {len(labels)} lines for {manifest.task.classes} classes."
        )
    return labels


def _read_gate(path: Path, manifest: Manifest) -> Gate:
    fit = manifest.gate
    sizes = {"energy_a": fit.fold_a, "mahalanobis_a": fit.fold_a, "combined_b": fit.fold_b}
    folds = read_arrays(path, CALIBRATION, sizes)
    for name, fold in folds.items():
        if fold.dtype != np.float64 or fold.shape != (sizes[name],):
            raise BundleRefused(f"{path}: {CALIBRATION}: {name} is not float64 [{sizes[name]}].")
        if not np.all(np.isfinite(fold)) or np.any(np.diff(fold) < 0):
            raise BundleRefused(f"{path}: {CALIBRATION}: {name} is not finite and ascending.")
    gate = Gate(**folds, alpha_reject=fit.alpha_reject, alpha_review=fit.alpha_review)
    if gate.smallest_p_value > gate.alpha_reject:
        raise BundleRefused(
            f"{path}: {CALIBRATION}: the smallest p-value that fold B allows is "
            f"{gate.smallest_p_value:.3g}, above alpha_reject {gate.alpha_reject}: "
            "the gate could never reject."
        )
    return gate
