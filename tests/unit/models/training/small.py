"""A training that takes seconds: colours as classes, and a small network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.unit.models.training.pictures import put
from tidegate.models.data.training_data import Labelled, TrainingData
from tidegate.models.training.config import read
from tidegate.models.training.recipe import Choice, Recipe
from tidegate.models.training.train import Request

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 70), "red": (200, 50, 40)}
MODEL = "test_resnet"
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
