"""The folder of TIDEGATE_MODELS: NAME/VERSION/ with a bundle in each. It opens no bundle."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tidegate.service.bundle.manifest import SLUG
from tidegate.service.bundle.store import MANIFEST, MAX_TEXT_BYTES
from tidegate.service.errors import ServingInvalid
from tidegate.service.serving.order import age

LATEST = "latest"
ROLES = ("stable", "canary", "shadow")
RESERVED = (*ROLES, LATEST)  # no version and no further alias has one of these names
NO_MODEL = "default"  # a key of the serving file, so no model has this name


Stamp = tuple[int, int, int]  # inode, time of change and size


@dataclass(frozen=True, slots=True)
class Repository:
    """The complete versions of each model, and why other folders are not among them."""

    root: Path
    versions: Mapping[str, tuple[str, ...]]  # by model, from the oldest to the newest
    refused: Mapping[tuple[str, str], str]  # by model and version: the reason
    # By model and version: what changes with the manifest of a complete version.
    stamps: Mapping[tuple[str, str], Stamp] = field(default_factory=dict)

    def path(self, name: str, version: str) -> Path:
        """Return the folder of a version's bundle."""
        return self.root / name / version


def list_repository(root: Path, known: Repository | None = None) -> Repository:
    """Return what is in folder `root`. Hidden folders, and folders without a manifest, are ignored.

    A version is complete if every file of its manifest is there with its size; one that was
    complete in `known` is not read again unless its manifest is another file. Raises
    ServingInvalid if the folder cannot be read.
    """
    before = {} if known is None else known.stamps
    stamps: dict[tuple[str, str], Stamp] = {}
    refused: dict[tuple[str, str], str] = {}
    try:
        for model in _folders(root):
            try:
                _list_model(model, before, stamps, refused)
            except OSError as error:  # such as lost+found on a disk of its own
                refused[model.name, ""] = _unreadable(model, error)
    except OSError as error:
        raise ServingInvalid(
            f"{_unreadable(root, error)}. TIDEGATE_MODELS must be a folder of bundles, "
            "NAME/VERSION/."
        ) from error
    versions: dict[str, list[str]] = {}
    for name, version in sorted(stamps, key=lambda key: (key[0], age(key[1]))):
        versions.setdefault(name, []).append(version)
    in_order = {name: tuple(there) for name, there in versions.items()}
    return Repository(root, in_order, refused, stamps)


def _list_model(
    model: Path,
    before: Mapping[tuple[str, str], Stamp],
    stamps: dict[tuple[str, str], Stamp],
    refused: dict[tuple[str, str], str],
) -> None:
    """Add the model's complete versions to `stamps`, and the others to `refused`."""
    for folder in _folders(model):
        key = (model.name, folder.name)
        if (stamp := _stamp(folder / MANIFEST)) is None:
            continue
        reason = "" if before.get(key) == stamp else _why_refused(model.name, folder)
        if reason:
            refused[key] = reason
        else:
            stamps[key] = stamp


def _unreadable(path: Path, error: OSError) -> str:
    return f"{error.filename or path} cannot be read: {error.strerror}"


def _folders(folder: Path) -> Iterator[Path]:
    """Yield the folders in a folder, and links to folders, by name; hidden ones are skipped."""
    for item in sorted(folder.iterdir()):
        if not item.name.startswith(".") and item.is_dir():
            yield item


def _stamp(manifest: Path) -> Stamp | None:
    """Return None if there is no such file."""
    try:
        status = manifest.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    is_file = stat.S_ISREG(status.st_mode)
    return (status.st_ino, status.st_mtime_ns, status.st_size) if is_file else None


def _why_refused(name: str, folder: Path) -> str:
    """Return why the folder is not a version of the model; "" if it is one."""
    version = folder.name
    if name == NO_MODEL or not re.fullmatch(SLUG, name):
        return f"{name!r} is not the name of a model: rename the folder {folder.parent}"
    if version in RESERVED or not re.fullmatch(SLUG, version):
        return f"{version!r} is not a version: build the bundle with another --version"
    try:
        with (folder / MANIFEST).open("rb") as file:
            fields = json.loads(file.read(MAX_TEXT_BYTES))
        sealed = (fields["name"], fields["version"])
        sizes = {str(name): int(file["bytes"]) for name, file in fields["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} in {folder} is damaged: copy the bundle again"
    if sealed != (name, version):
        place = folder.parents[1] / f"{sealed[0]}" / f"{sealed[1]}"
        what = "remove it, because that is in" if place.exists() else "move it to"
        return f"the bundle in {folder} is {sealed[0]} {sealed[1]}: {what} {place}"
    for file_name, size in sizes.items():
        if not (folder / file_name).is_file() or (folder / file_name).stat().st_size != size:
            return f"{file_name} in {folder} is missing or incomplete: copy the bundle again"
    return ""
