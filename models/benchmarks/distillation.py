"""Compare students with their teachers, and with themselves trained alone, on digits.

    python -m tidegate.models.benchmarks.distillation OUT.json FOLDER

A large network is trained from scratch, then a small one in int8 with and without it, with three
seeds: on 1,500 digits; and on 200 of them, the others without their classes. The teacher of a part
is trained on the labelled digits of the same part. FOLDER keeps the trainings, so the same command
goes on after an interruption.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, TypedDict

import numpy as np

from tidegate.models.benchmarks.remedies import images_of
from tidegate.models.build_request import BuildOptions, Data
from tidegate.models.card.markdown import change
from tidegate.models.data.training_data import Labelled, TrainingData
from tidegate.models.digits.images import LABELS, data
from tidegate.models.fitting.side_by_side import ALONE, STUDENT, TEACHER
from tidegate.models.importers import from_timm, timm_source
from tidegate.models.importers.base import Imported
from tidegate.models.pipeline import make
from tidegate.models.progress import say
from tidegate.models.training.config import read, read_as
from tidegate.models.training.distil import COMPARISON, Task, distil
from tidegate.models.training.distil_config import DistilConfig
from tidegate.models.training.recipe import Choice
from tidegate.models.training.train import Request, train
from tidegate.models.training.unlabelled import Unlabelled
from tidegate.service.files import write_atomically

TEACHER_MODEL, STUDENT_MODEL = "resnet10t", "test_efficientnet"
SEEDS = (0, 1, 2)
IMAGES, CALIBRATION = 1500, 1500  # digits that are used
FEW = 200  # of them with their classes
OOD = ("rotated 90°", "faces", "noise")
_COMMON: Mapping[str, Any] = {
    "size": 32,
    "threads": 1,
    "workers": 0,
    "augmentation.crop": 0.7,
    "optimisation.batch": 32,
    "stages.patience": 1000,
}
TEACHER_EPOCHS = {IMAGES: 8, FEW: 30}  # by the number of labelled digits
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    TEACHER: {**_COMMON, "optimisation.rate": 0.002},
    STUDENT: {**_COMMON, "optimisation.rate": 0.004, "stages.full": 12},
}


class Found(TypedDict):
    """One part with one seed: what `comparison.json` holds."""

    seed: int
    labelled: int
    unlabelled: int
    models: list[dict[str, Any]]
    student_against: dict[str, dict[str, Any]]


class Measured(TypedDict):
    """The result of a run."""

    command: str
    models: dict[str, str]
    settings: dict[str, dict[str, Any]]
    found: list[Found]


def measure(folder: Path) -> Iterator[Found]:
    """Train and build everything; files of the trainings are in `folder`."""
    folders = data()
    splits = {name: images_of(getattr(folders, name)) for name in ("train", "calibrate", "test")}
    ood = {name: folders.ood[name] for name in OOD}
    for count in TEACHER_EPOCHS:
        for seed in SEEDS:
            rng = np.random.default_rng(seed)
            train_images = _some(splits["train"], IMAGES, rng)
            calibrate = _some(splits["calibrate"], CALIBRATION, rng)
            labelled = _some(train_images, count, rng) if count < IMAGES else train_images
            others = tuple(image.path for image in train_images if image not in {*labelled})
            run = folder / f"{count}-{seed}"
            if not (run / COMPARISON).is_file():
                divided = TrainingData(LABELS, labelled, calibrate, splits["test"])
                teacher = _teacher(divided, seed, folder / f"teacher-{run.name}")
                _build(divided, others, teacher, seed, run, ood)
            compared = json.loads((run / COMPARISON).read_text("utf-8"))
            yield Found(
                seed=seed,
                labelled=count,
                unlabelled=len(others),
                models=compared["models"],
                student_against=compared["student_against"],
            )


def _some(
    images: tuple[Labelled, ...], count: int, rng: np.random.Generator
) -> tuple[Labelled, ...]:
    rows = rng.choice(len(images), count, replace=False)
    return tuple(images[row] for row in sorted(rows.tolist()))


def _teacher(divided: TrainingData, seed: int, run: Path) -> Imported:
    epochs = TEACHER_EPOCHS[len(divided.train)]
    trained = train(
        Request(
            model=TEACHER_MODEL,
            weights=None,
            data=divided,
            choice=Choice("staged", "It is the teacher."),
            config=read(None, {**SETTINGS[TEACHER], "stages.full": epochs, "seed": seed}),
            folder=run,
        )
    )
    return from_timm.load(f"{timm_source.LOCAL}{trained.model}")


def _build(
    divided: TrainingData,
    unlabelled: tuple[Path, ...],
    teacher: Imported,
    seed: int,
    run: Path,
    ood: Mapping[str, Path],
) -> None:
    made = distil(
        Task(
            teacher=teacher,
            model=STUDENT_MODEL,
            weights=None,
            recipe="staged",
            data=divided,
            unlabelled=Unlabelled(unlabelled, ()) if unlabelled else None,
            config=read_as(DistilConfig, None, {**SETTINGS[STUDENT], "seed": seed}),
            folder=run,
        )
    )
    options = BuildOptions(
        "student", "1", "benchmark", precision="int8", accept_weak_gate=True, max_drop=100
    )
    make(
        made.student,
        Data.of(divided, ood),
        options,
        run / "bundles",
        compared_with=made.compared_with,
    )


def table(result: Measured) -> str:
    """Return the Markdown table: a row for each part and model."""
    lines = [
        "| labelled + unlabelled | model | accuracy, by seed | of the teacher's | as the "
        "teacher | ECE | mean OOD AUROC | bytes | CPU ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for labelled in TEACHER_EPOCHS:
        found = [one for one in result["found"] if one["labelled"] == labelled]
        if not found:
            continue
        lines += [_row(found, name) for name in (TEACHER, STUDENT, ALONE)]
    return "\n".join(lines)


def paired(result: Measured) -> str:
    """Return the Markdown table of the students against themselves trained alone."""
    lines = [
        "| labelled + unlabelled | seed | difference in points | 95 % interval | McNemar's p |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in result["found"]:
        against = one["student_against"][ALONE]
        points = 100 * (against["only_first"] - against["only_second"]) / against["images"]
        low, high = (change(100 * limit, 2) for limit in against["interval"])
        lines.append(
            f"| {one['labelled']:,} + {one['unlabelled']:,} | {one['seed']} | "
            f"{change(points, 2)} | {low} to {high} | {against['p_value']:.2g} |"
        )
    return "\n".join(lines)


def _row(found: Sequence[Found], name: str) -> str:
    models = [next(m for m in one["models"] if m["name"] == name) for one in found]
    teachers = [one["models"][0] for one in found]
    accuracy = [m["accuracy"]["value"] for m in models]
    kept = [own / t["accuracy"]["value"] for own, t in zip(accuracy, teachers, strict=True)]
    auroc = mean(mean(m["auroc"].values()) for m in models)
    first = found[0]
    return (
        f"| {first['labelled']:,} + {first['unlabelled']:,} | {name}, {models[0]['precision']} | "
        f"{', '.join(f'{100 * value:.2f}' for value in accuracy)} % | "
        f"{', '.join(f'{100 * value:.1f}' for value in kept)} % | "
        f"{100 * mean(m['agreement'] for m in models):.1f} % | "
        f"{mean(m['ece'] for m in models):.4f} | {auroc:.3f} | "
        f"{mean(m['bytes'] for m in models):,.0f} | {mean(m['cpu_ms'] for m in models):.2f} |"
    )


def main(out: Path, folder: Path) -> None:
    """Measure, and write the results to `out`."""
    found: list[Found] = []
    for one in measure(folder):
        found.append(one)
        accuracies = ", ".join(f"{m['name']} {m['accuracy']['value']:.2%}" for m in one["models"])
        say(f"{one['labelled']} labelled, seed {one['seed']}: {accuracies}")
        result = Measured(
            command="python -m tidegate.models.benchmarks.distillation",
            models={TEACHER: TEACHER_MODEL, STUDENT: STUDENT_MODEL},
            settings={name: dict(settings) for name, settings in SETTINGS.items()},
            found=found,
        )
        write_atomically(out, json.dumps(result, ensure_ascii=False, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
