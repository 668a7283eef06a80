"""`tidegate distil` from a sealed teacher to a sealed student, with both in its card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.models.colour_folders import COLOURS, folders
from tidegate.models.importers.torch_runtime import require
from tidegate.service.bundle.store import Bundle, open_bundle
from tidegate.service.cli import main

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("drawn_once")]
SETTINGS = ("threads=1", "optimisation.rate=0.01", "optimisation.batch=16")


@dataclass(frozen=True)
class Distilled:
    """A student's bundle, and the folder of its trainings."""

    bundle: Bundle
    run: Path


def words(root: Path, command: str, model: str, name: str) -> list[str]:
    given = [command, "--data", str(root / "images"), "--model", model, "--name", name]
    given += ["--version", "1", "--run", str(root / f"run-{name}"), "--out", str(root / "bundles")]
    given += ["--size", "32", "--epochs", "4", "--workers", "0", "--accept-weak-gate"]
    given += ["--alpha-reject", "0.05", "--alpha-review", "0.1"]
    given += ["--ood", f"purple={root / 'purple'}"]
    return [*given, *(word for setting in SETTINGS for word in ("--set", setting))]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distil")
    data = folders(folder / "images", train=40)
    data.ood["purple"].rename(folder / "purple")
    return folder


@pytest.fixture(scope="module")
def distilled(root: Path) -> Distilled:
    threads = require("torch").get_num_threads()
    assert main(words(root, "train", "timm:test_resnet", "large")) == 0
    unlabelled = folders(root / "more", train=5, calibrate=1, test=1).train
    given = words(root, "distil", "timm:test_efficientnet", "small")
    given += ["--teacher", str(root / "bundles/large/1"), "--unlabelled", str(unlabelled)]

    assert main([*given, "--precision", "int8", "--max-drop", "100", "--features"]) == 0

    require("torch").set_num_threads(threads)
    return Distilled(open_bundle(root / "bundles/small/1"), root / "run-small")


def test_the_card_compares_teacher_student_and_student_alone(distilled: Distilled) -> None:
    card = (distilled.bundle.path / "MODEL_CARD.md").read_text("utf-8")

    assert "| measure | teacher | student | student trained alone |" in card
    for row in ("accuracy (95 % interval)", "same class as the teacher", "ECE (noise floor)"):
        assert f"| {row} |" in card
    assert "| AUROC on purple, combined |" in card
    assert "| precision | fp32 | int8 | int8 |" in card
    assert "Against the student trained alone" in card
    assert "It learns from the teacher, timm" in card
    assert "soft labels alone" in card


def test_the_numbers_are_those_of_the_bundles(distilled: Distilled, root: Path) -> None:
    found = json.loads((distilled.run / "comparison.json").read_text("utf-8"))
    teacher, student, alone = found["models"]

    evaluation = distilled.bundle.manifest.evaluation
    assert evaluation is not None
    assert student["accuracy"]["value"] == evaluation.accuracy.value > 0.8
    assert student["bytes"] == distilled.bundle.model_path.stat().st_size
    large = open_bundle(root / "bundles/large/1")
    assert large.manifest.evaluation is not None
    assert teacher["accuracy"]["value"] == large.manifest.evaluation.accuracy.value
    assert teacher["bytes"] == large.model_path.stat().st_size
    assert teacher["agreement"] == 1
    assert 0 < alone["agreement"] <= 1
    assert min(one["cpu_ms"] for one in found["models"]) > 0


def test_the_classes_are_the_teachers(distilled: Distilled) -> None:
    assert distilled.bundle.labels == tuple(COLOURS)
