"""Measure several models on the same test images: a student, its teacher and a rival."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.outputs import load_pixels
from tidegate.models.evaluation.paired import Paired
from tidegate.models.evaluation.speed import cpu_ms_per_image
from tidegate.models.fitting.evaluated import EvaluatedModel
from tidegate.models.importers.base import Imported
from tidegate.service.bundle.evidence import Coverage, OodReport, Share
from tidegate.service.bundle.manifest import Precision

_TIMED = 8  # images for the speed measurement
_PLAIN = (
    *("name", "source", "precision", "size", "ece", "ece_noise_floor", "agreement", "auroc"),
    *("caught", "bytes", "cpu_ms"),
)

TEACHER, STUDENT, ALONE = "teacher", "student", "student trained alone"


@dataclass(frozen=True, slots=True)
class ComparedWith:
    """Models that a distilled one is compared with, fitted and evaluated on the same images."""

    teacher: Imported  # as it is
    alone: Imported | None  # the same network without a teacher, in the precision of the build
    file: Path | None = None  # for the unrounded numbers
    hint: str = ""  # what to do if the network trained alone is better

    @property
    def models(self) -> list[tuple[str, Imported, bool]]:
        """Return each with its name and whether it is converted like the student."""
        alone = [] if self.alone is None else [(ALONE, self.alone, True)]
        return [(TEACHER, self.teacher, False), *alone]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one model."""

    name: str  # "teacher", "student"
    source: str  # "timm 1.0.31 resnet50"
    precision: Precision
    size: tuple[int, int]  # of its input: height, width
    accuracy: Share
    balanced_accuracy: Share
    ece: float  # after the temperature
    ece_noise_floor: float
    agreement: float  # share of the test images with the class of the first model
    auroc: Mapping[str, float]  # OOD set → of the combined score
    caught: float  # mean share of the built-in OOD images that are rejected or reviewed
    bytes: int  # of model.onnx
    cpu_ms: float  # per image, one thread, batch 1, of the graph alone


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Models measured on the same test images; the first is the teacher, the second the student."""

    models: tuple[Measured, ...]
    paired: Mapping[str, Paired]  # the student with each other model, by its name
    hint: str = ""  # what to do if the rival is better

    @property
    def teacher(self) -> Measured:
        """Return the first model."""
        return self.models[0]

    @property
    def student(self) -> Measured:
        """Return the second model."""
        return self.models[1]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A fitted and evaluated model, and what it is called."""

    name: str
    source: str
    precision: Precision
    evaluated: EvaluatedModel


def measure(models: Sequence[Contestant]) -> SideBySide:
    """Return the measurements; all models were evaluated on the same test split.

    An image that a model cannot decode counts as not recognised.
    """
    ms = cpu_ms_per_image(
        {one.name: one.evaluated.fitted.sealed for one in models},
        {one.name: _some_pixels(one.evaluated) for one in models},
    )
    predicted = [_predicted(one.evaluated) for one in models]
    truth = {i.sha256: i.class_id for one in models for i in one.evaluated.test.items}
    right = [np.array([own.get(key, -1) == truth[key] for key in truth]) for own in predicted]
    same = [
        float(np.mean([own.get(key, -1) == predicted[0].get(key, -1) for key in truth]))
        for own in predicted
    ]
    student = right[1]
    return SideBySide(
        tuple(
            _measured(one, agreement, ms[one.name])
            for one, agreement in zip(models, same, strict=True)
        ),
        {
            one.name: Paired.of(student, own)
            for at, (one, own) in enumerate(zip(models, right, strict=True))
            if at != 1
        },
    )


def as_json(found: SideBySide) -> bytes:
    """Return the unrounded numbers as a file."""
    content = {
        "models": [
            {
                **{name: getattr(one, name) for name in _PLAIN},
                "accuracy": one.accuracy.model_dump(),
                "balanced_accuracy": one.balanced_accuracy.model_dump(),
            }
            for one in found.models
        ],
        "student_against": {
            name: {**asdict(paired), "p_value": paired.p_value, "interval": paired.interval}
            for name, paired in found.paired.items()
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"


def _measured(one: Contestant, agreement: float, cpu_ms: float) -> Measured:
    found = one.evaluated.evaluation
    return Measured(
        name=one.name,
        source=one.source,
        precision=one.precision,
        size=one.evaluated.fitted.spec.output_size,
        accuracy=found.accuracy,
        balanced_accuracy=found.balanced_accuracy,
        ece=found.calibrated.ece,
        ece_noise_floor=found.calibrated.ece_noise_floor,
        agreement=agreement,
        auroc={report.name: _auroc(report) for report in found.ood},
        caught=_caught(one.evaluated.coverage),
        bytes=len(one.evaluated.fitted.sealed),
        cpu_ms=cpu_ms,
    )


def _predicted(model: EvaluatedModel) -> dict[str, int]:
    keys = (item.sha256 for item in model.test.items)
    return dict(zip(keys, model.test_classes, strict=True))


def _some_pixels(model: EvaluatedModel) -> NDArray[np.uint8]:
    items = model.test.items[:_TIMED]
    return np.stack([load_pixels(item.path, model.fitted.spec) for item in items])


def _auroc(report: OodReport) -> float:
    return report.separation["combined"].auroc


def _caught(coverage: Coverage) -> float:
    return coverage.synthetic.caught.value
