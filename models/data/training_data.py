"""The file that divides a folder of images into train, calibrate and test: `splits.json`.

It lists files instead of copying them, and fixes the order of the classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tidegate.models.errors import BuildRefused
from tidegate.service.files import write_atomically

FORMAT: Literal["tidegate-splits/1"] = "tidegate-splits/1"
SplitName = Literal["train", "calibrate", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "calibrate", "test")


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image file and its class."""

    path: Path
    class_id: int


@dataclass(frozen=True, slots=True)
class Listed:
    """The images of one split, given by a list instead of a folder."""

    name: SplitName
    classes: tuple[str, ...]
    images: tuple[Labelled, ...]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """A divided set of labelled images. No image is in two of its parts."""

    classes: tuple[str, ...]  # by class id
    train: tuple[Labelled, ...]
    calibrate: tuple[Labelled, ...]
    test: tuple[Labelled, ...]
    seed: int = 0
    held_out: tuple[Labelled, ...] = ()  # of retrainings: later images that nothing is fitted on

    @classmethod
    def of(
        cls,
        classes: tuple[str, ...],
        images: Mapping[SplitName, Sequence[Labelled]],
        seed: int = 0,
        held_out: Sequence[Labelled] = (),
    ) -> TrainingData:
        """Return the images of the three splits."""
        train, calibrate, test = (tuple(images[name]) for name in SPLITS)
        return cls(classes, train, calibrate, test, seed, tuple(held_out))

    @property
    def every(self) -> tuple[Labelled, ...]:
        """Return all images."""
        return (*self.train, *self.calibrate, *self.test, *self.held_out)

    def images(self, split: SplitName) -> tuple[Labelled, ...]:
        """Return the images of one split."""
        return {"train": self.train, "calibrate": self.calibrate, "test": self.test}[split]

    def listed(self, split: SplitName) -> Listed:
        """Return one split as the pipeline takes it."""
        return Listed(split, self.classes, self.images(split))


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    format: Literal["tidegate-splits/1"]
    root: Path
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    train: tuple[tuple[str, int], ...]
    calibrate: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]
    seed: int = 0
    held_out: tuple[tuple[str, int], ...] = ()


def read(path: Path) -> TrainingData:
    """Return the splits that the file at `path` lists.

    Paths are relative to its `root`, which is relative to the file's folder, or absolute. Raises
    BuildRefused if the file is damaged, names one image twice, or images are missing.
    """
    try:
        file = _File.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BuildRefused(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BuildRefused(f"{path} is not a splits file: {where}: {first['msg']}.") from error
    root = path.parent / file.root
    if not root.is_dir():
        raise BuildRefused(f"The folder {root} does not exist: correct `root` in {path}.")
    rows = {name: _labelled(root, getattr(file, name)) for name in SPLITS}
    data = TrainingData.of(file.classes, rows, file.seed, _labelled(root, file.held_out))
    _check(data, path)
    return data


def write(path: Path, root: Path, data: TrainingData, more: Mapping[str, object]) -> None:
    """Write `data` with its images relative to `root`; `more` are entries for people to read.

    A link stays a link, so that the names of classes and files are those that people know.
    """
    root = root.absolute()
    head = {"format": FORMAT, "root": str(root), "classes": data.classes, "seed": data.seed, **more}
    lines = [f"{json.dumps(name)}: {_text(value)}" for name, value in head.items()]
    parts = {name: data.images(name) for name in SPLITS}
    for name, images in (*parts.items(), ("held_out", data.held_out)):
        rows = ",\n".join(_text((_relative(i.path, root), i.class_id)) for i in images)
        lines.append(f"{json.dumps(name)}: [\n{rows}\n]")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _relative(path: Path, root: Path) -> str:
    path = path.absolute()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _labelled(root: Path, rows: Sequence[tuple[str, int]]) -> tuple[Labelled, ...]:
    return tuple(Labelled(root / path, class_id) for path, class_id in rows)


def _check(data: TrainingData, file: Path) -> None:
    if len(set(data.classes)) < len(data.classes):
        raise BuildRefused(f"{file} names a class twice.")
    images, seen = data.every, set[Path]()
    for image in images:
        if not 0 <= image.class_id < len(data.classes):
            raise BuildRefused(
                f"{file}: {image.path} has class {image.class_id}, but there are "
                f"{len(data.classes)} classes, from 0."
            )
        if image.path in seen:
            raise BuildRefused(f"{file} names {image.path} twice: no image may be in two splits.")
        seen.add(image.path)
    if missing := [str(image.path) for image in images if not image.path.is_file()]:
        raise BuildRefused(
            f"{len(missing)} of {len(images)} images of {file} are missing, such as {missing[0]}: "
            "put them back, or divide the images again."
        )
