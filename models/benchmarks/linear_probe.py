"""A linear layer on the demo network's ImageNet features, on emoji by category.

    python -m tidegate.models.benchmarks.linear_probe [--json OUT]

Nine categories, two drawings of each emoji (npm); an emoji is in one split. Three divisions. The
long tails thin the training images out to 1:20, 1:50 and 1:100, evenly on a log scale; the test
images stay. Accuracies are of the test images.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from tidegate.models.benchmarks.gates import emoji
from tidegate.models.data.training_data import Labelled, TrainingData
from tidegate.models.package_files import DOWNLOADS, find
from tidegate.models.progress import say
from tidegate.models.sealing.unseal import reopened
from tidegate.models.training.features import Features, features
from tidegate.models.training.linear_head import BALANCES, Balance, fit_head, fit_layer
from tidegate.models.training.split import divide
from tidegate.service.bundle.store import open_bundle

SEEDS = (0, 1, 2)
TAILS = (1, 20, 50, 100)  # images of the largest class for one of the smallest; 1: as they are
BUNDLE = Path("models/bundles/efficientnet-lite0/1")
ONE_EMOJI = r"/([0-9A-F-]+)-[a-z]+\.png"


class Found(TypedDict):
    """The test accuracies of one way to fit the layer, one of each seed."""

    tail: int
    balance: Balance
    accuracy: list[float]
    balanced_accuracy: list[float]
    chosen: int  # how often cross-validation chose it


class Measured(TypedDict):
    """The result of a run."""

    command: str
    machine: dict[str, str | int | None]
    images: list[list[int]]  # train, calibrate, test of each seed
    features_s: float  # CPU seconds for the features of one training set
    layer_s: list[float]  # CPU seconds of fitting, of each seed, as the images are
    found: list[Found]


def main() -> None:
    """Measure, print and save."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder))
    print(table(result), times(result), sep="\n\n")
    if chosen.json is not None:
        text = json.dumps(result, ensure_ascii=False, indent=1) + "\n"
        chosen.json.write_text(text, encoding="utf-8")


def measure(folder: Path) -> Measured:
    """Return the accuracies; `folder` is for the images and their features."""
    source = reopened(open_bundle(BUNDLE))
    data = [divide(pictures(folder / "emoji"), None, seed, ONE_EMOJI).data for seed in SEEDS]
    found: dict[tuple[int, Balance], Found] = {}
    features_s, layer_s = 0.0, []
    for seed, one in zip(SEEDS, data, strict=True):
        started = time.process_time()
        train, test = (
            features(source.backbone, source.spec, images, folder / "features")
            for images in (one.train, one.test)
        )
        if not features_s:
            features_s = (
                (time.process_time() - started) * len(one.train) / _count(one, "train", "test")
            )
        for tail in TAILS:
            rows = thinned(train.class_ids, tail, seed)
            started = time.process_time()
            _fit(Features(train.values[rows], train.class_ids[rows], ()), test, tail, seed, found)
            if tail == 1:
                layer_s.append(time.process_time() - started)
            say(f"seed {seed}, 1:{tail} done")
    return Measured(
        command="python -m tidegate.models.benchmarks.linear_probe",
        machine={"cores": os.cpu_count(), "kernel": platform.release()},
        images=[[len(d.train), len(d.calibrate), len(d.test)] for d in data],
        features_s=features_s,
        layer_s=layer_s,
        found=list(found.values()),
    )


def thinned(class_ids: NDArray[np.int64], tail: int, seed: int) -> NDArray[np.int64]:
    """Return the rows of a long tail: class sizes fall evenly, on a log scale, to 1 : `tail`."""
    if tail == 1:
        return np.arange(len(class_ids))
    counts = np.bincount(class_ids)
    rng = np.random.default_rng(seed)
    kept = []
    for place, class_id in enumerate(np.argsort(-counts, kind="stable").tolist()):
        wanted = counts.max() * tail ** (-place / (len(counts) - 1))
        rows = rng.permutation(np.flatnonzero(class_ids == class_id))
        kept.append(rows[: max(1, round(wanted))])
    return np.sort(np.concatenate(kept))


def table(result: Measured) -> str:
    """Return the Markdown table."""
    lines = [
        "| training images | layer | accuracy | balanced accuracy | chosen |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in result["found"]:
        tail = "as they are" if one["tail"] == 1 else f"1:{one['tail']}"
        chosen = f"{one['chosen']} of {len(SEEDS)}"
        lines.append(
            f"| {tail} | {one['balance']} | {_shown(one['accuracy'])} | "
            f"{_shown(one['balanced_accuracy'])} | {chosen} |"
        )
    return "\n".join(lines)


def times(result: Measured) -> str:
    """Return a sentence on the time that it takes."""
    train = result["images"][0][0]
    return (
        f"The features of {train:,} training images took {result['features_s']:.0f} s of CPU time, "
        f"the layer with its cross-validation {mean(result['layer_s']):.0f} s."
    )


def _fit(
    train: Features, test: Features, tail: int, seed: int, found: dict[tuple[int, Balance], Found]
) -> None:
    head = fit_head(train.values, train.class_ids, int(test.class_ids.max()) + 1, seed)
    for name in BALANCES:
        if name not in head.validated:
            continue
        decay = head.validated[name].decay
        weights, bias = fit_layer(train.values, train.class_ids, decay, name)
        right = (test.values @ weights.T + bias).argmax(axis=1) == test.class_ids
        recalls = np.bincount(test.class_ids, right) / np.bincount(test.class_ids)
        empty = Found(tail=tail, balance=name, accuracy=[], balanced_accuracy=[], chosen=0)
        one = found.setdefault((tail, name), empty)
        one["accuracy"].append(float(right.mean()))
        one["balanced_accuracy"].append(float(recalls.mean()))
        one["chosen"] += name == head.balance


def _shown(values: Sequence[float]) -> str:
    return f"{100 * mean(values):.1f} % ± {100 * stdev(values):.1f}"


def _count(data: TrainingData, *splits: str) -> int:
    images: list[Labelled] = [i for name in splits for i in getattr(data, name)]
    return len(images)


def pictures(folder: Path) -> Path:
    """Write the pictures below `folder`, one folder per category, and return it."""
    written: set[bytes] = set()
    for vendor in ("google", "twitter"):
        for code, category, picture in emoji.pictures(find(emoji.archive(vendor), None, DOWNLOADS)):
            if picture not in written:
                written.add(picture)
                path = folder / category / f"{code}-{vendor}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture)
    return folder


if __name__ == "__main__":
    main()
