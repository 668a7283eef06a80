"""`tidegate distil`: what is wrong is said in the first second, before torch is imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.unit.models.training.pictures import classes
from tidegate.models.commands import distil
from tidegate.service.cli import main


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classes(tmp_path_factory.mktemp("images"), {"cat": 10, "dog": 10})


def words(images: Path, out: Path, *more: str) -> list[str]:
    given = ["distil", "--data", str(images), "--model", "timm:x", "--teacher", "timm:y"]
    given += ["--out", str(out), "--name", "parts", "--version", "1", "--run", str(out / "run")]
    return [*given, *more]


MISTAKES: dict[str, tuple[list[str], str]] = {
    "a student of another library": (["--model", "onnx:x"], "--model onnx:x: give timm:NAME"),
    "weights that are missing": (["--weights", "none.pt"], "--weights none.pt does not exist"),
    "a teacher that is nothing": (["--teacher", "none"], "--teacher none: give the folder of a"),
    "a bundle that is missing": (["--teacher", "bundle:none"], "none"),
    "a checkpoint that is missing": (
        ["--teacher-weights", "none.pt"],
        "--teacher-weights none.pt does not exist",
    ),
    "images that are missing": (["--unlabelled", "none"], "--unlabelled none: there is no such"),
    "a temperature": (["--temperature", "0.5"], "distillation.temperature is 0.5"),
    "a weight": (["--alpha", "0"], "distillation.alpha is 0"),
    "a setting": (["--set", "distillation.alfa=1"], "unknown; similar: distillation.alpha"),
    "a second stage": (["--set", "imbalance.two_stage=true"], "without the teacher"),
}


@pytest.mark.parametrize(("more", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_explained_before_anything_is_written(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(words(images, tmp_path / "out", *more)) == 1

    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert "torch" not in sys.modules


def test_options_are_settings(images: Path, tmp_path: Path) -> None:
    given = words(images, tmp_path, "--temperature", "3", "--features", "--epochs", "7")
    options = distil.parser().parse_args([*given[1:], "--set", "distillation.attention=2"])

    config = distil._config(options)

    chosen = config.distillation
    assert (chosen.temperature, chosen.alpha, chosen.features, chosen.attention) == (3, 0.7, 1, 2)
    assert config.stages.full == config.alone().stages.full == 7
    assert config.alone(3).stages.full == 21
