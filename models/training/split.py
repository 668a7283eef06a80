"""Divide a folder of classes into train, calibrate and test, and write that down as a file.

Images that show the same are in one split: those that are nearly the same, and those of one group
that the user names (an object, a patient, a recording). The division depends on the seed and on
what is in the files, not on their names or order.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tidegate.models.data.folders import class_names, count_images, images_by_class
from tidegate.models.data.together import Together
from tidegate.models.data.training_data import SPLITS, Labelled, SplitName, TrainingData, read
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting.mahalanobis import LEAST_PER_CLASS
from tidegate.models.progress import say
from tidegate.models.training.apportion import Unit, apportion, least_units
from tidegate.models.training.divided import divided_folders, read_divided
from tidegate.models.training.division import Division, Shares, check_broken, name_below
from tidegate.models.training.seen import Seen, alike, look_at, same_pixels

__all__ = ["Division", "Shares", "TrainingData", "check", "divide", "make", "read", "share_out"]

LEAST: Mapping[SplitName, int] = {"train": LEAST_PER_CLASS, "calibrate": 1, "test": 1}
_TIGHTER = (1.0, 0.5, 0.25)  # parts of the tolerance for near-duplicates
_NO_CHAIN = 10  # like images at most that are kept together in any case


def make(
    folder: Path, shares: Shares | None = None, seed: int = 0, groups: str | None = None
) -> TrainingData:
    """Return the images of `folder` as three splits, and print what was done; see `divide`."""
    division = divide(folder, shares, seed, groups)
    for line in division.report():
        say(line)
    return division.data


def check(
    folder: Path,
    shares: Shares | None = None,
    groups: str | None = None,
    *,
    keep_alike: bool = True,
) -> None:
    """Raise BuildRefused for what `divide` would refuse without reading an image.

    `folder` may also be a splits file.
    """
    by_split = (shares or Shares()).by_split()
    if is_divided(folder):
        given = {"--shares": shares, "--groups": groups, "--divide-alike": not keep_alike or None}
        if words := [word for word, value in given.items() if value is not None]:
            raise BuildRefused(f"{folder} is divided already: leave out {' and '.join(words)}.")
        if folder.is_file():
            read(folder)
        return
    classes = class_names(folder)
    need = least_units(by_split, LEAST)
    counts = count_images(folder, classes)
    if few := [name for name, count in counts.items() if count < need]:
        raise BuildRefused(
            f"{len(few)} classes have fewer than {need} images, such as {few[0]!r} with "
            f"{counts[few[0]]}: each split needs some. Add images, or remove the class."
        )
    if groups is not None:
        paths = (path for images in images_by_class(folder, classes).values() for path in images)
        keys = {_key(groups, name_below(path, folder)) for path in paths}
        if len(keys) == 1:
            raise BuildRefused(f"--groups {groups!r} puts every image into one group.")


def is_divided(folder: Path) -> bool:
    """Return whether it is a splits file or has a folder for each split, not for each class."""
    return folder.is_file() or divided_folders(folder) is not None


def divide(
    folder: Path,
    shares: Shares | None = None,
    seed: int = 0,
    groups: str | None = None,
    *,
    keep_alike: bool = True,
) -> Division:
    """Divide the images of a folder of classes, or read one that is divided already.

    `groups` is a regular expression: images for whose path below `folder` it finds the same text
    (of its groups, if it has some) are kept together. `keep_alike` keeps those together that are
    nearly the same. Raises BuildRefused if a class has too few images, if an image is in two
    classes or in two splits of a divided folder, or if over 1 % cannot be decoded.
    """
    check(folder, shares, groups, keep_alike=keep_alike)
    if (parts := divided_folders(folder)) is not None:
        return read_divided(folder, parts, seed)
    shares = shares or Shares()
    classes = class_names(folder)
    found = [
        Labelled(path, class_id)
        for class_id, images in enumerate(images_by_class(folder, classes).values())
        for path in images
    ]
    seen, broken = look_at(found)
    check_broken(broken, len(found), folder)
    copies = same_pixels(seen, classes)
    once = [images[0] for images in copies]
    near = _near(once, shares) if keep_alike else _Near([], 0)
    named = () if groups is None else _named_groups(folder, copies, groups)
    units = _units(len(once), (*near.groups, *named))
    by_split = _shared_out(once, units, shares.by_split(), seed)
    _check_result(by_split, once, units, classes, shares)
    return Division(
        folder,
        TrainingData.of(classes, {name: _labelled(by_split[name]) for name in SPLITS}, seed),
        shares,
        groups,
        alike=tuple(tuple(once[i].path for i in group) for group in near.groups),
        chained=near.chained,
        repeated=tuple(image.path for images in copies for image in images[1:]),
        broken=tuple(broken),
        notes=_on_names(classes),
        keep_alike=keep_alike,
    )


def share_out(images: Sequence[Seen], shares: Shares, seed: int = 0) -> dict[SplitName, list[Seen]]:
    """Return unlike images by split, without asking for a least number of a class.

    Images that are nearly the same are kept together.
    """
    units = _units(len(images), _near(images, shares).groups)
    return _shared_out(images, units, shares.by_split(), seed)


def _units(count: int, groups: Iterable[Sequence[int]]) -> list[list[int]]:
    together = Together(count)
    for positions in groups:
        together.join(positions)
    return together.sets()


@dataclass(frozen=True, slots=True)
class _Near:
    groups: Sequence[Sequence[int]]  # positions of images that are nearly the same
    chained: int  # images of groups that were too large, and were divided


def _near(images: Sequence[Seen], shares: Shares) -> _Near:
    """Return the groups of near-duplicates, none of them larger than the largest split.

    Where many images of a class look alike, such as the digit 1, they form one chain. It is divided
    with a smaller tolerance.
    """
    per_class = Counter(image.class_id for image in images)
    most = max(shares.by_split().values())
    groups: list[list[int]] = []
    left, chained = list(range(len(images))), set[int]()
    for tolerance in _TIGHTER:
        large: list[int] = []
        for members in alike([images[i] for i in left], tolerance):
            group = [left[i] for i in members]
            counts = Counter(images[i].class_id for i in group)
            fits = all(count <= max(_NO_CHAIN, most * per_class[c]) for c, count in counts.items())
            if len(group) > 1 and fits:
                groups.append(group)
            elif len(group) > 1:
                large += group
        left = large
        chained.update(large)
    return _Near(groups, len(chained))


def _on_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence on the first classes whose names differ in case or encoding alone."""
    known: dict[str, str] = {}
    for name in classes:
        other = known.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if other != name:
            return (
                f"The names of the classes {other!r} and {name!r} differ in case or encoding "
                "alone: merge the folders if they are one class.",
            )
    return ()


def _key(groups: str, name: str) -> tuple[str, ...]:
    """Return what names the group of an image. Raises BuildRefused if nothing does."""
    try:
        match = re.search(groups, name)
    except re.error as error:
        raise BuildRefused(f"--groups {groups!r} is not a regular expression: {error}.") from error
    if match is None:
        raise BuildRefused(f"--groups {groups!r} matches nothing in {name}.")
    return tuple(text or "" for text in match.groups()) or (match.group(),)


def _named_groups(
    folder: Path, copies: Sequence[Sequence[Seen]], groups: str
) -> Iterable[Sequence[int]]:
    """Return the positions of the images of each group that the user named."""
    members: dict[tuple[str, ...], list[int]] = {}
    for at, images in enumerate(copies):
        for image in images:
            key = _key(groups, name_below(image.path, folder))
            members.setdefault(key, []).append(at)
    return members.values()


def _shared_out(
    images: Sequence[Seen],
    units: Sequence[Sequence[int]],
    shares: Mapping[SplitName, float],
    seed: int,
) -> dict[SplitName, list[Seen]]:
    """Return the images of each split, in the order of their digests."""
    lots = [_lot(seed, min(images[i].sha256 for i in unit)) for unit in units]
    weights = [
        Unit(Counter(images[i].class_id for i in unit), lot)
        for unit, lot in zip(units, lots, strict=True)
    ]
    found: dict[SplitName, list[Seen]] = {name: [] for name in SPLITS}
    for unit, split in zip(units, apportion(weights, shares), strict=True):
        found[split] += [images[i] for i in unit]
    return {
        name: sorted(members, key=lambda image: image.sha256) for name, members in found.items()
    }


def _labelled(images: Iterable[Seen]) -> list[Labelled]:
    return [Labelled(image.path, image.class_id) for image in images]


def _lot(seed: int, digest: str) -> str:
    return hashlib.sha256(f"{seed}/{digest}".encode()).hexdigest()


def _check_result(
    by_split: Mapping[SplitName, Sequence[Seen]],
    images: Sequence[Seen],
    units: Sequence[Sequence[int]],
    classes: Sequence[str],
    shares: Shares,
) -> None:
    """Raise BuildRefused if a class has too few images in a split."""
    for split, least in LEAST.items():
        counts = Counter(image.class_id for image in by_split[split])
        for class_id, label in enumerate(classes):
            if counts[class_id] < least:
                own = [u for u in units if any(images[i].class_id == class_id for i in u)]
                count = sum(image.class_id == class_id for image in images)
                raise BuildRefused(
                    f"Class {label!r} has {count} images in {len(own)} groups that must be kept "
                    f"together, so {split} gets {counts[class_id]} and needs {least}: add images "
                    f"that show something else; {least_units(shares.by_split(), LEAST)} unlike "
                    "images are enough. --divide-alike keeps only the groups of --groups together."
                )
