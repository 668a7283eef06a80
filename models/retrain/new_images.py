"""Add labelled images of a review export to the images that a model was trained on.

The old test split stays as it is. A share of the new images is held out, for the comparison of the
old and the new version; nothing is ever fitted on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tidegate.models.data.duplicates import like_one_of
from tidegate.models.data.folders import SUFFIXES
from tidegate.models.data.training_data import Labelled, TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.training.division import Shares
from tidegate.models.training.seen import Seen, look_at, same_pixels
from tidegate.models.training.split import share_out
from tidegate.service.review.export import UNLABELLED


@dataclass(frozen=True, slots=True)
class Added:
    """The old images with the new ones, and what became of these."""

    data: TrainingData
    held_out: tuple[Labelled, ...]  # of the new ones
    lines: tuple[str, ...]  # for the console and the report


def in_order(data: TrainingData, labels: Sequence[str]) -> TrainingData:
    """Return `data` with the class ids of `labels`. Raises BuildRefused for other classes."""
    if sorted(data.classes) != sorted(labels):
        differing = sorted({*data.classes} ^ {*labels})
        raise BuildRefused(
            f"The images are not of the bundle's classes: {', '.join(differing[:5])} "
            "is only in one of them. Give the images that it was trained on as --data."
        )
    ids = [list(labels).index(name) for name in data.classes]

    def mapped(images: Sequence[Labelled]) -> tuple[Labelled, ...]:
        return tuple(replace(image, class_id=ids[image.class_id]) for image in images)

    return TrainingData(
        tuple(labels), mapped(data.train), mapped(data.calibrate), mapped(data.test), data.seed,
        mapped(data.held_out),
    )  # fmt: skip


def listed(folder: Path, classes: Sequence[str]) -> tuple[list[Labelled], int]:
    """Return the labelled images of an export, and how many have no label yet.

    Folders are named by the class's label or, as `tidegate review export` names them, by its id.
    Raises BuildRefused for another folder, or if no image has a label.
    """
    if not folder.is_dir():
        raise BuildRefused(f"The folder {folder} does not exist.")
    images: list[Labelled] = []
    unlabelled = 0
    for path in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        if path.name.startswith("."):
            continue
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if path.name == UNLABELLED:
            unlabelled += len(files)
        else:
            class_id = _class_id(path, classes)
            images += [Labelled(file, class_id) for file in files]
    if not images:
        raise BuildRefused(
            f"No image in {folder} has a label ({unlabelled} are in {UNLABELLED}): move images "
            "into folders named by their class."
        )
    return images, unlabelled


def add(old: TrainingData, folder: Path, shares: Shares, seed: int) -> Added:
    """Return `old` with the labelled images of `folder`.

    Left out are images that `old` has already, and those that are nearly the same as one of its
    test or held-out images: to learn them would make the comparison too good. An image that is
    nearly the same as one of calibrate or train goes there too, and with it the new images that are
    nearly the same as it; the others are divided by `shares`. Raises BuildRefused if no image is
    left, or if a label contradicts that of an old image.
    """
    images, unlabelled = listed(folder, old.classes)
    found, broken = look_at(images)
    new = [copies[0] for copies in same_pixels(found, old.classes)]
    parts = [look_at(part)[0] for part in (old.train, old.calibrate, (*old.test, *old.held_out))]
    train, calibrate, kept = parts
    known = {image.mark.pixels: image for part in parts for image in part}
    _check_labels(new, known, old.classes)
    unknown = [image for image in new if image.mark.pixels not in known]
    beside_test = {image.path for image in _like(unknown, kept)}
    left = [image for image in unknown if image.path not in beside_test]
    if not left:
        raise BuildRefused(
            f"None of the {len(images)} labelled images in {folder} is new: "
            f"{len(new) - len(unknown)} are in the old splits, {len(beside_test)} are nearly the "
            "same as an image of the old test."
        )
    like_train, like_calibrate = _joined(left, train), _joined(left, calibrate)
    to_train = [i for i in left if i.path in like_train]
    to_calibrate = [i for i in left if i.path in like_calibrate - like_train]
    free = [i for i in left if i.path not in like_train | like_calibrate]
    by_split = share_out(free, shares, seed)
    held_out = _labelled(by_split["test"])
    data = TrainingData(
        old.classes,
        (*old.train, *_labelled([*to_train, *by_split["train"]])),
        (*old.calibrate, *_labelled([*to_calibrate, *by_split["calibrate"]])),
        old.test,
        old.seed,
        (*old.held_out, *held_out),
    )
    counts = Counter(old.classes[image.class_id] for image in left)
    lines = [
        f"{len(left)} new images: {len(data.train) - len(old.train)} for training, "
        f"{len(data.calibrate) - len(old.calibrate)} for calibration, {len(held_out)} held out.",
        f"By class: {', '.join(f'{label} {count}' for label, count in counts.most_common(20))}.",
    ]
    for count, why in (
        (len(new) - len(unknown), "are in the old splits already"),
        (len(beside_test), "are nearly the same as an image of the old test and are left out"),
        (len(broken), "cannot be decoded"),
        (unlabelled, f"have no label yet ({UNLABELLED})"),
    ):
        if count:
            lines.append(f"{count} images {why}.")
    return Added(data, held_out, tuple(lines))


def _class_id(folder: Path, classes: Sequence[str]) -> int:
    name = folder.name
    by_id = int(name) if name.isascii() and name.isdigit() else None
    if name in classes:
        if by_id is not None and by_id < len(classes) and classes[by_id] != name:
            raise BuildRefused(
                f"{folder}: {name} is the label of class {classes.index(name)} and the id of "
                f"another one, {classes[by_id]!r}: rename the folder to a label that is no number."
            )
        return list(classes).index(name)
    if by_id is not None and by_id < len(classes):
        return by_id
    raise BuildRefused(
        f"{folder} is not named like a class ({', '.join(list(classes)[:5])}"
        f"{', …' if len(classes) > 5 else ''}) or its id, 0 to {len(classes) - 1}."
    )


def _check_labels(new: Sequence[Seen], known: dict[bytes, Seen], classes: Sequence[str]) -> None:
    for image in new:
        old = known.get(image.mark.pixels)
        if old is not None and old.class_id != image.class_id:
            raise BuildRefused(
                f"{image.path} is labelled {classes[image.class_id]!r}, but {old.path} of the old "
                f"splits, the same image, {classes[old.class_id]!r}: correct one of them."
            )


def _like(images: Sequence[Seen], known: Sequence[Seen]) -> list[Seen]:
    """Return those of `images` that are nearly the same as one of `known`."""
    at = like_one_of([i.mark for i in known], [i.mark for i in images])
    return [images[place] for place in sorted(at)]


def _joined(images: Sequence[Seen], known: Sequence[Seen]) -> set[Path]:
    """Return the files of `images` that are like one of `known`, also through others of them."""
    found: set[Path] = set()
    while near := _like([i for i in images if i.path not in found], known):
        found |= {image.path for image in near}
        known = near
    return found


def _labelled(images: Sequence[Seen]) -> tuple[Labelled, ...]:
    return tuple(Labelled(image.path, image.class_id) for image in images)
