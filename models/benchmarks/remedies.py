"""Measure the remedies of training: for rare classes, and against overconfidence.

A small network is trained from scratch on handwritten digits, in each way and with each seed, and
is measured with torch on digits that took no part in the training.
`python -m tidegate.models.benchmarks.remedies OUT.json FOLDER` writes the results; FOLDER keeps the
trainings, so the same command goes on after an interruption.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.folders import labelled
from tidegate.models.data.training_data import Labelled, TrainingData
from tidegate.models.digits.images import LABELS, data
from tidegate.models.evaluation.probabilities import (
    ece,
    fit_temperature,
    score_predictions,
)
from tidegate.models.importers.torch_runtime import require
from tidegate.models.progress import say
from tidegate.models.training import transforms
from tidegate.models.training.config import read
from tidegate.models.training.images import Images, in_order
from tidegate.models.training.recipe import Choice
from tidegate.models.training.train import Request, train
from tidegate.service.files import write_atomically

MODEL = "test_resnet"
SEEDS = (0, 1, 2)
RATIO = 100  # images of the most frequent digit for one of the rarest
MIXED_IMAGES = 1000
_RAREST = 3
_SETTINGS: dict[str, Any] = {
    "size": 32,
    "threads": 1,
    "workers": 0,
    "augmentation.crop": 0.7,
    "mixing.least_images": 0,
    "optimisation.rate": 0.004,
    "stages.full": 16,
    "stages.patience": 1000,
}
LONG_TAIL: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "logit-adjusted loss": {"imbalance.loss": "logit-adjusted"},
    "two-stage": {"imbalance.two_stage": True},
}
MIXING: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "MixUp or CutMix": {"mixing.mixup": 0.2, "mixing.cutmix": 1.0},
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One training, measured on the test digits."""

    part: str  # "long tail" or "mixing"
    way: str
    seed: int
    images: int
    accuracy: float
    balanced_accuracy: float
    rarest: float  # mean recall of the three rarest digits
    ece_before: float  # of the network's own probabilities
    ece_after: float  # with a temperature fitted on the calibration digits


def long_tail(images: Sequence[Labelled], ratio: int, seed: int) -> tuple[Labelled, ...]:
    """Return images whose numbers per class fall geometrically; which class is rare is drawn."""
    rng = np.random.default_rng(seed)
    by_class: dict[int, list[Labelled]] = {}
    for image in images:
        by_class.setdefault(image.class_id, []).append(image)
    most = min(map(len, by_class.values()))
    kept: list[Labelled] = []
    for place, class_id in enumerate(rng.permutation(sorted(by_class)).tolist()):
        count = round(most * ratio ** (-place / (len(by_class) - 1)))
        rows = rng.choice(len(by_class[class_id]), count, replace=False)
        kept += [by_class[class_id][row] for row in sorted(rows.tolist())]
    return tuple(kept)


def measure(folder: Path) -> Iterator[Measured]:
    """Train in every way with every seed; files of the trainings are in `folder`."""
    folders = data()
    digits = {name: images_of(getattr(folders, name)) for name in ("train", "calibrate", "test")}
    for seed in SEEDS:
        tail = long_tail(digits["train"], RATIO, seed)
        rows = np.random.default_rng(seed).choice(len(digits["train"]), MIXED_IMAGES, replace=False)
        few = tuple(digits["train"][row] for row in sorted(rows.tolist()))
        for part, images, ways in (("long tail", tail, LONG_TAIL), ("mixing", few, MIXING)):
            for way, settings in ways.items():
                run = folder / f"{part}-{way}-{seed}".replace(" ", "-")
                kept = run / "measured.json"
                if not kept.is_file():
                    model = _trained(images, {**_SETTINGS, **settings, "seed": seed}, run)
                    found = _measured(part, way, seed, images, model, digits)
                    write_atomically(kept, json.dumps(asdict(found)).encode())
                yield Measured(**json.loads(kept.read_text("utf-8")))


def _trained(images: tuple[Labelled, ...], settings: Mapping[str, Any], run: Path) -> Any:
    request = Request(
        model=MODEL,
        weights=None,
        data=TrainingData(LABELS, images, (), ()),
        choice=Choice("staged", "Ways of training are compared."),
        config=read(None, settings),
        folder=run,
    )
    timm = require("timm")
    return timm.create_model(f"local-dir:{train(request).model}", pretrained=True).eval()


def images_of(folder: Path) -> tuple[Labelled, ...]:
    """Return the digits of a split."""
    split = labelled(folder.name, folder, LABELS)
    return tuple(Labelled(item.path, item.class_id) for item in split.items)


def _measured(
    part: str,
    way: str,
    seed: int,
    images: Sequence[Labelled],
    model: Any,
    digits: Mapping[str, Sequence[Labelled]],
) -> Measured:
    logits, class_ids = outputs(model, digits["test"])
    temperature = fit_temperature(*outputs(model, digits["calibrate"]))
    plain, scaled = (score_predictions(logits, class_ids, t) for t in (1.0, temperature))
    right = plain.predicted == class_ids
    recall = np.array([right[class_ids == c].mean() for c in range(len(LABELS))])
    counts = np.bincount([image.class_id for image in images], minlength=len(LABELS))
    return Measured(
        part=part,
        way=way,
        seed=seed,
        images=len(images),
        accuracy=float(right.mean()),
        balanced_accuracy=float(recall.mean()),
        rarest=float(recall[np.argsort(counts)[:_RAREST]].mean()),
        ece_before=ece(plain.confidence, right),
        ece_after=ece(scaled.confidence, right),
    )


def outputs(
    model: Any, images: Sequence[Labelled]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return a torch network's logits [images, classes] and the class ids [images]."""
    config = require("timm.data").resolve_model_data_config(model)
    loaded = Images(images, transforms.evaluation(config))
    with require("torch").inference_mode():
        parts = [model(batch).numpy() for batch, _ in in_order(loaded, 256, 0)]
    return np.concatenate(parts), loaded.class_ids


def main(out: Path, folder: Path) -> None:
    """Measure, and write the results to `out`."""
    found = []
    for one in measure(folder):
        found.append(asdict(one))
        say(f"{one.part}, {one.way}, seed {one.seed}: balanced {one.balanced_accuracy:.2%}")
    content = {"model": MODEL, "ratio": RATIO, "settings": _SETTINGS, "results": found}
    write_atomically(out, json.dumps(content, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
