"""Read a folder that is divided into train, calibrate and test already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tidegate.models.data.duplicates import Marked, check_pixels_disjoint, nearly_same
from tidegate.models.data.folders import Item, Split, class_names, images_by_class
from tidegate.models.data.training_data import SPLITS, Labelled, SplitName, TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.training.division import Division, check_broken
from tidegate.models.training.seen import Seen, look_at, same_pixels

_NAMES: Mapping[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "calibrate": ("calibrate", "calibration", "cal", "val", "valid", "validation"),
    "test": ("test", "testing"),
}


def divided_folders(folder: Path) -> dict[SplitName, Path] | None:
    """Return the folder of each split, or None if `folder` holds classes.

    Raises BuildRefused if one of the three is missing or there twice.
    """
    if not folder.is_dir():
        raise BuildRefused(f"The folder {folder} does not exist.")
    found = {
        split: [folder / name for name in names if (folder / name).is_dir()]
        for split, names in _NAMES.items()
    }
    if not found["train"] or not (found["calibrate"] or found["test"]):
        return None
    for split, paths in found.items():
        if len(paths) != 1:
            what = "more than one" if paths else "none"
            raise BuildRefused(
                f"{folder} is divided, but of the folders {', '.join(_NAMES[split])} it has "
                f"{what}: give one for each of train, calibrate and test, or one folder of classes."
            )
    return {split: paths[0] for split, paths in found.items()}


def read_divided(folder: Path, parts: Mapping[SplitName, Path], seed: int) -> Division:
    """Return a divided folder as it is.

    Raises BuildRefused if an image is in two splits or two classes, or if over 1 % of the files
    cannot be decoded. Images that are nearly the same as one of train are reported.
    """
    classes = class_names(parts["train"])
    ids = {name: class_id for class_id, name in enumerate(classes)}
    read: dict[SplitName, _Read] = {}
    for split in SPLITS:
        images = [
            Labelled(path, ids[name])
            for name, paths in images_by_class(parts[split], classes).items()
            for path in paths
        ]
        seen, broken = look_at(images)
        check_broken(broken, len(images), folder)
        read[split] = _Read(same_pixels(seen, classes), broken)
    marked = {split: found.marked(split) for split, found in read.items()}
    check_pixels_disjoint([marked["train"]], marked["calibrate"])
    check_pixels_disjoint([marked["train"], marked["calibrate"]], marked["test"])
    near = (nearly_same(marked["train"], marked[split]) for split in ("calibrate", "test"))
    return Division(
        folder,
        TrainingData.of(classes, {split: read[split].images for split in SPLITS}, seed),
        None,
        repeated=tuple(path for found in read.values() for path in found.repeated),
        broken=tuple(path for found in read.values() for path in found.broken),
        notes=tuple(line for line in near if line),
    )


@dataclass(frozen=True, slots=True)
class _Read:
    copies: list[list[Seen]]  # images by their pixels
    broken: list[Path]

    @property
    def images(self) -> tuple[Labelled, ...]:
        return tuple(Labelled(i.path, i.class_id) for i, *_ in self.copies)

    @property
    def repeated(self) -> list[Path]:
        return [image.path for images in self.copies for image in images[1:]]

    def marked(self, split: SplitName) -> Marked:
        firsts = [images[0] for images in self.copies]
        items = tuple(Item(i.path, i.class_id, i.sha256) for i in firsts)
        return Marked(Split(split, items), [i.mark for i in firsts])
