"""Read image folders as disjoint splits.

A labelled split is an ImageFolder, one folder per class with images below it, or a list of images
(`training_data.py`). An OOD set is any folder with images below it. Two images are the same if
their files have the same content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.training_data import Listed
from tidegate.models.errors import BuildRefused
from tidegate.models.progress import follow
from tidegate.service.files import sha256_of

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
Source = Path | Listed  # an ImageFolder, or a list of the images of one split


@dataclass(frozen=True, slots=True)
class Item:
    """One image file."""

    path: Path
    class_id: int  # −1 in an OOD set
    sha256: str


@dataclass(frozen=True, slots=True)
class Split:
    """The images that one step of the pipeline may use, each content once, in a fixed order."""

    name: str
    items: tuple[Item, ...]
    repeated: int = 0  # files skipped as duplicates

    @property
    def digest(self) -> str:
        """Return the sha256 of the images' sorted digests; names and order do not matter."""
        ordered = sorted(item.sha256 for item in self.items)
        return hashlib.sha256("\n".join(ordered).encode()).hexdigest()

    @property
    def class_ids(self) -> NDArray[np.int64]:
        """Return the class of every image, [n]."""
        return np.array([item.class_id for item in self.items], np.int64)


@dataclass(frozen=True, slots=True)
class Splits:
    """The images that each step may use."""

    train: Split
    calibrate: Split
    test: Split
    ood: Mapping[str, Split]

    def every(self) -> list[Split]:
        """Return all splits."""
        return [self.train, self.calibrate, self.test, *self.ood.values()]


def class_names(source: Source) -> tuple[str, ...]:
    """Return the classes of a list or an ImageFolder, in the order of their ids in training."""
    if isinstance(source, Listed):
        return source.classes
    names = tuple(sorted(entry.name for entry in _entries(source) if entry.is_dir()))
    if len(names) < 2:
        raise BuildRefused(
            f"{source} has {len(names)} class folders, but at least two are needed: put the images "
            "of each class into a folder named like the class, as for torchvision's ImageFolder."
        )
    return names


def folder_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the class folders: the labels, or the class ids if labels repeat."""
    if len(set(labels)) == len(labels):
        return tuple(labels)
    return tuple(map(str, range(len(labels))))


def count_images(source: Source, classes: Sequence[str]) -> dict[str, int]:
    """Return the number of image files of each class, 0 for one that `source` does not have.

    Raises BuildRefused for a folder that is not a class. No file is read.
    """
    return dict.fromkeys(classes, 0) | {
        name: len(images) for name, images in images_by_class(source, classes).items()
    }


def labelled(name: str, source: Source, classes: Sequence[str]) -> Split:
    """Read labelled images; the folders are named as in `classes`, the list by class id.

    Raises BuildRefused for an unknown folder, or if there is no image.
    """
    ids = {label: index for index, label in enumerate(classes)}
    found = [
        (path, ids[label])
        for label, images in images_by_class(source, classes).items()
        for path in images
    ]
    return _split(name, source if isinstance(source, Path) else "The list", found)


def images_by_class(source: Source, classes: Sequence[str]) -> dict[str, list[Path]]:
    """Return the image files by the name of their class. Raises BuildRefused for an unknown one."""
    if isinstance(source, Path):
        found = {entry.name: _images(entry) for entry in _class_folders(source)}
    else:
        found = {label: [] for label in source.classes}
        for image in source.images:
            found[source.classes[image.class_id]].append(image.path)
    where = f"{source} has a folder" if isinstance(source, Path) else "The splits have a class"
    for name in found:
        if name not in classes:
            raise BuildRefused(
                f"{where} {name!r}, which is not a class of the model "
                f"({', '.join(list(classes)[:5])}{', …' if len(classes) > 5 else ''})."
            )
    return found


def unlabelled(name: str, folder: Path) -> Split:
    """Read every image below `folder`. Raises BuildRefused if there is none."""
    return _split(name, folder, [(path, -1) for path in _images(folder)])


def check_disjoint(splits: Iterable[Split]) -> None:
    """Raise BuildRefused with both file names if an image is in two splits."""
    for first, second in combinations(splits, 2):
        known = {item.sha256: item.path for item in first.items}
        for item in second.items:
            if item.sha256 in known:
                raise BuildRefused(
                    f"{known[item.sha256]} ({first.name}) and {item.path} ({second.name}) are the "
                    "same image: no image may be in two splits."
                )


def shuffled(split: Split) -> Split:
    """Return the split in the order of the images' digests: a fixed pseudo-random order."""
    return replace(split, items=tuple(sorted(split.items, key=lambda item: item.sha256)))


def cut(n: int, shares: Mapping[str, float]) -> dict[str, slice]:
    """Return each part's rows out of `n`, by its share."""
    bounds = np.rint(np.cumsum([0.0, *shares.values()]) * n).astype(int).tolist()
    return {name: slice(*pair) for name, pair in zip(shares, pairwise(bounds), strict=True)}


def _split(name: str, origin: Path | str, found: Sequence[tuple[Path, int]]) -> Split:
    once: dict[str, Item] = {}
    for path, class_id in follow(found, f"Reading {name}"):
        sha256 = sha256_of(path)
        before = once.setdefault(sha256, Item(path, class_id, sha256))
        if before.class_id != class_id:
            raise BuildRefused(f"{before.path} and {path} are the same image in two classes.")
    if not once:
        raise BuildRefused(f"{origin} contains no image ({', '.join(sorted(SUFFIXES))}).")
    return Split(name, tuple(once.values()), len(found) - len(once))


def _class_folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in _entries(folder) if entry.is_dir())


def _images(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
    )


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise BuildRefused(f"The folder {folder} does not exist.")
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
