"""Train all layers of the demo network on emoji by category, beside a linear layer on its features.

    python -m tidegate.models.benchmarks.fine_tuning OUT.json FOLDER [SEED…]

Images and divisions are those of `linear_probe`. Both begin with the same ImageNet weights, and are
measured on the same test images; the linear layer on features at the network's own size, and at the
size of the training. FOLDER keeps the trainings, so the same command goes on after an interruption.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from tidegate.models.benchmarks import efficientnet_lite
from tidegate.models.benchmarks.linear_probe import BUNDLE, ONE_EMOJI, SEEDS, pictures
from tidegate.models.benchmarks.remedies import outputs
from tidegate.models.card.markdown import change
from tidegate.models.data.training_data import TrainingData
from tidegate.models.evaluation.paired import Paired
from tidegate.models.importers import from_timm
from tidegate.models.importers.base import Imported
from tidegate.models.importers.from_timm import Overrides
from tidegate.models.importers.torch_runtime import require
from tidegate.models.progress import say
from tidegate.models.sealing.unseal import reopened
from tidegate.models.training import probe
from tidegate.models.training.config import read
from tidegate.models.training.features import features
from tidegate.models.training.recipe import Choice
from tidegate.models.training.split import divide
from tidegate.models.training.train import Request, train
from tidegate.service.bundle.store import open_bundle
from tidegate.service.files import write_atomically

LINEAR, LINEAR_SMALL, ALL = "linear layer", "linear layer, small pictures", "all layers"
MODEL = "tf_efficientnet_lite0"
SETTINGS: Mapping[str, Any] = {
    "size": 64,  # of the pictures; at 224, the network's own, an epoch takes 12 times as long
    "threads": 1,
    "workers": 0,
    "preset": "light",
    "optimisation.rate": 0.003,
    "stages.head": 2,
    "stages.full": 4,
}
Right = NDArray[np.bool_]  # [test images]


class Found(TypedDict):
    """The ways on the test images of one division."""

    seed: int
    images: list[int]  # train, calibrate, test
    accuracy: dict[str, float]  # by way
    balanced_accuracy: dict[str, float]
    training_s: float  # of all layers; the machine may have been busy
    difference: float  # in accuracy: all layers minus the linear layer at the network's own size
    interval: list[float]  # 95 %


class Measured(TypedDict):
    """The result of a run."""

    command: str
    machine: dict[str, str | int | None]
    model: str
    settings: dict[str, Any]
    found: list[Found]


def measure(seed: int, folder: Path) -> Found:
    """Return the ways' accuracies for the division with `seed`; files are in `folder`."""
    data = divide(pictures(folder / "emoji"), None, seed, ONE_EMOJI).data
    weights = folder / "lite0.safetensors"
    if not weights.exists():
        efficientnet_lite.save("lite0", weights)
    small = from_timm.load(
        MODEL, checkpoint=weights, overrides=Overrides(size=SETTINGS["size"]), encoder=True
    )
    trained, training_s = _trained(data, seed, weights, folder)
    right = {
        LINEAR: _probed(reopened(open_bundle(BUNDLE)), data, seed, folder / "features"),
        LINEAR_SMALL: _probed(small, data, seed, folder / "small-features"),
        ALL: trained,
    }
    class_ids = np.array([image.class_id for image in data.test])
    paired = Paired.of(right[ALL], right[LINEAR])
    return Found(
        seed=seed,
        images=[len(data.train), len(data.calibrate), len(data.test)],
        accuracy={way: float(one.mean()) for way, one in right.items()},
        balanced_accuracy={way: _balanced(one, class_ids) for way, one in right.items()},
        training_s=training_s,
        difference=paired.difference,
        interval=list(paired.interval),
    )


def _probed(source: Imported, data: TrainingData, seed: int, cache: Path) -> Right:
    head = probe.fit(source, data, seed=seed, cache=cache).head
    test = features(source.backbone, source.spec, data.test, cache)
    logits = test.values @ head.weights.T + head.bias
    right: Right = logits.argmax(axis=1) == test.class_ids
    return right


def _trained(data: TrainingData, seed: int, weights: Path, folder: Path) -> tuple[Right, float]:
    """Return which test images are recognised, and how long the epochs took."""
    trained = train(
        Request(
            model=MODEL,
            weights=weights,
            data=data,
            choice=Choice("staged", "It is compared with a linear layer."),
            config=read(None, {**SETTINGS, "seed": seed}),
            folder=folder / f"run-{seed}",
        )
    )
    model = require("timm").create_model(f"local-dir:{trained.model}", pretrained=True).eval()
    logits, class_ids = outputs(model, data.test)
    return logits.argmax(axis=1) == class_ids, sum(e.seconds for e in trained.record.epochs)


def _balanced(right: Right, class_ids: NDArray[np.int64]) -> float:
    return float(np.mean(np.bincount(class_ids, right) / np.bincount(class_ids)))


def table(result: Measured) -> str:
    """Return the Markdown table, a row for each division."""
    lines = [
        "| division | linear layer: accuracy, balanced | the same, small pictures | "
        "all layers, small pictures | all layers − linear layer, points | 95 % interval |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in result["found"]:
        low, high = (change(100 * limit, 1) for limit in one["interval"])
        lines.append(
            f"| {one['seed']} | {_shown(one, LINEAR)} | {_shown(one, LINEAR_SMALL)} | "
            f"{_shown(one, ALL)} | {change(100 * one['difference'], 1)} | {low} to {high} |"
        )
    return "\n".join(lines)


def _shown(found: Found, way: str) -> str:
    return f"{100 * found['accuracy'][way]:.1f} %, {100 * found['balanced_accuracy'][way]:.1f} %"


def main(out: Path, folder: Path, seeds: Sequence[int]) -> None:
    """Measure, and write the result to `out` after every division."""
    found: list[Found] = []
    for seed in seeds:
        found.append(measure(seed, folder))
        accuracies = ", ".join(f"{way} {a:.2%}" for way, a in found[-1]["accuracy"].items())
        say(f"Division {seed}: {accuracies}")
        result = Measured(
            command="python -m tidegate.models.benchmarks.fine_tuning OUT.json FOLDER",
            machine={"cores": os.cpu_count(), "kernel": platform.release()},
            model=MODEL,
            settings=dict(SETTINGS),
            found=found,
        )
        write_atomically(out, json.dumps(result, ensure_ascii=False, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(word) for word in sys.argv[3:]] or SEEDS)
