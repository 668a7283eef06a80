"""What a build is given: images and the user's choices, with the checks that need no network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tidegate.models.data.folders import (
    Source,
    Splits,
    check_disjoint,
    class_names,
    count_images,
    folder_names,
    labelled,
    shuffled,
    unlabelled,
)
from tidegate.models.data.training_data import TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting.conformal import PARTS, GateTarget, check_sizes
from tidegate.models.fitting.fit import FitOptions
from tidegate.models.fitting.mahalanobis import check_classes
from tidegate.models.graphs.openvino_session import check_openvino
from tidegate.models.precision.int8 import RunsOn
from tidegate.models.sealing.write import check_writable
from tidegate.service.bundle import manifest as m
from tidegate.service.bundle.manifest import Precision

_OWN_SPLITS = {"train", "calibrate", "test", *PARTS}


@dataclass(frozen=True, slots=True)
class Data:
    """Three splits of labelled images, and sets that the gate should reject, by name."""

    train: Source
    calibrate: Source
    test: Source
    ood: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, divided: TrainingData, ood: Mapping[str, Path] | None = None) -> Data:
        """Return the images of a divided set."""
        return cls(
            divided.listed("train"), divided.listed("calibrate"), divided.listed("test"), ood or {}
        )

    @property
    def labelled(self) -> dict[str, Source]:
        """Return the labelled images by the name of their split."""
        return {"train": self.train, "calibrate": self.calibrate, "test": self.test}


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """The user's choices."""

    name: str
    version: str
    recipe: str  # the command, for the provenance
    fit: FitOptions = field(default_factory=FitOptions)
    precision: Precision | None = None  # of the backbone; None: as imported
    int8_for: RunsOn = "cpu"
    max_drop: float = 1.0  # percentage points that a variant may lose
    allow_difference: bool = False  # from the source's preprocessing
    overrides: Mapping[str, str] = field(default_factory=dict)  # of the spec's mode rules
    labels: tuple[str, ...] | None = None
    replace: bool = False
    accept_weak_gate: bool = False  # that catches hardly any synthetic OOD image
    expect_accuracy: float | None = None  # on the test split, as training reported it


def check_destination(options: BuildOptions, bundles_dir: Path) -> None:
    """Raise BuildRefused if no bundle of this name, version and precision can be made here.

    Writes nothing: a command that trains or exports calls it first.
    """
    for option, name in (("--name", options.name), ("--version", options.version)):
        if not re.fullmatch(m.SLUG, name):
            raise BuildRefused(
                f"{option} {name!r}: use lower-case letters, digits, '.', '_' and '-', at most 64."
            )
    check_new(bundles_dir / options.name / options.version, options)
    in_int8 = options.precision == "int8" and options.int8_for == "openvino"
    if options.precision is not None and (in_int8 or options.precision == "bf16"):
        check_openvino(options.precision)
    check_writable(bundles_dir / options.name)


def check_data(data: Data, options: BuildOptions) -> None:
    """Raise BuildRefused if folders of images are missing, misnamed or hold too few images.

    It only counts files, so that what needs no network is known in the first second.
    """
    for name in data.ood:
        if name in _OWN_SPLITS or "/" in name or name.startswith("."):
            raise BuildRefused(
                f"--ood {name}=…: choose another name; {', '.join(sorted(_OWN_SPLITS))} are "
                "reserved, and a name must not be a path."
            )
    for folder in (*data.labelled.values(), *data.ood.values()):
        if isinstance(folder, Path) and not folder.is_dir():
            raise BuildRefused(f"The folder {folder} does not exist.")
    # Every class needs training images, so that without --labels their folders name the classes.
    classes = folder_names(options.labels or class_names(data.train))
    counts = {name: count_images(folder, classes) for name, folder in data.labelled.items()}
    check_classes(counts["train"].items())
    _check_folds(sum(counts["calibrate"].values()), options.fit.target)


def _check_folds(images: int, target: GateTarget) -> None:
    check_sizes(round(PARTS["fold_a"] * images), round(PARTS["fold_b"] * images), target)


def check_new(bundle: Path, options: BuildOptions) -> None:
    """Raise BuildRefused if the bundle exists and is not to be replaced."""
    if bundle.exists() and not options.replace:
        raise BuildRefused(
            f"{bundle} already exists, and bundles do not change: choose another --version, or "
            "replace it with --replace."
        )


def read_splits(data: Data, labels: tuple[str, ...], target: GateTarget) -> Splits:
    """Read the folders, which are named by class label, or by class id if labels repeat.

    Raises BuildRefused if an image is in two of them, or if there are too few for `target`.
    """
    keys = folder_names(labels)
    splits = Splits(
        train=labelled("train", data.train, keys),
        calibrate=shuffled(labelled("calibrate", data.calibrate, keys)),
        test=labelled("test", data.test, keys),
        ood={name: unlabelled(name, folder) for name, folder in data.ood.items()},
    )
    check_disjoint(splits.every())
    _check_folds(len(splits.calibrate.items), target)
    return splits
