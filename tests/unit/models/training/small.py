"""A training that takes seconds: colours as classes, and a small network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.unit.models.training.pictures import put
from tidegate.models.data.training_data import Labelled, TrainingData
from tidegate.models.importers import from_timm
from tidegate.models.importers.base import Imported
from tidegate.models.training.config import read, read_as
from tidegate.models.training.distil_config import DistilConfig
from tidegate.models.training.recipe import Choice, Recipe
from tidegate.models.training.teacher import Teaching
from tidegate.models.training.train import Request, train

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 70), "red": (200, 50, 40)}
MODEL, STUDENT = "test_resnet", "test_efficientnet"
TRANSFERRED: dict[str, Any] = {"distillation.features": 1.0, "distillation.attention": 1.0}
SETTINGS: dict[str, Any] = {
    "size": 32,
    "threads": 1,
    "workers": 0,
    "stages.slice": 0.3,
    "stages.head": 1,
    "stages.full": 2,
    "stages.balanced_head": 1,
    "optimisation.batch": 16,
    "optimisation.rate": 0.01,
    "imbalance.two_stage": True,
}


def data(root: Path, per_class: int = 30) -> TrainingData:
    """Write `per_class` images of each colour below `root`; those to train on are listed."""
    rng = np.random.default_rng(0)
    images = []
    for class_id, (name, colour) in enumerate(COLOURS.items()):
        for index in range(per_class):
            pixels = np.array(colour) + rng.normal(0, 25, 3) + rng.normal(0, 20, (24, 24, 3))
            path = root / name / f"{index}.png"
            images.append(Labelled(put(path, np.clip(pixels, 0, 255).astype(np.uint8)), class_id))
    return TrainingData(tuple(COLOURS), tuple(images), (), ())


def request(
    divided: TrainingData,
    folder: Path,
    *,
    recipe: Recipe = "staged",
    weights: Path | None = None,
    model: str = MODEL,
    **changes: Any,
) -> Request:
    """Return a request with SETTINGS and `changes`, whose names have "__" for a dot."""
    settings = SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}
    return Request(
        model=model,
        weights=weights,
        data=divided,
        choice=Choice(recipe, "It was asked for in a test."),
        config=read(None, settings),
        folder=folder,
    )


def a_teacher(divided: TrainingData, folder: Path) -> Imported:
    """Train a network, and import it."""
    trained = train(request(divided, folder, imbalance__two_stage=False, stages__full=4))
    return from_timm.load(f"local-dir:{trained.model}")


def distillation(
    divided: TrainingData,
    teacher: Imported,
    folder: Path,
    changes: Mapping[str, Any],
    unlabelled: tuple[Path, ...] = (),
) -> Request:
    """Return a request for a student, with SETTINGS and `changes`."""
    settings = {**SETTINGS, "imbalance.two_stage": False, **changes}
    config = read_as(DistilConfig, None, settings)
    teaching = Teaching(teacher, config.distillation, unlabelled, ("A note.",))
    return replace(request(divided, folder, model=STUDENT), config=config, teaching=teaching)
