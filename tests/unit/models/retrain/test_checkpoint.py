"""All layers are trained again, from the checkpoint of the served version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.models.colour_folders import LABELS, folders
from tests.unit.models.retrain.test_retraining import filed
from tests.unit.models.training.conftest import torch_as_it_was  # noqa: F401  # a fixture
from tests.unit.models.training.small import SETTINGS, data, request
from tidegate.models.retrain.checkpoint import train_again
from tidegate.models.training.train import train
from tidegate.service.bundle.store import open_bundle
from tidegate.service.cli import main
from tidegate.service.files import sha256_of

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("torch_as_it_was")]


def test_the_checkpoint_is_trained_in_stages_at_its_size(tmp_path: Path) -> None:
    divided = data(tmp_path / "colours")
    first = train(request(divided, tmp_path / "1"))
    settings = {name: value for name, value in SETTINGS.items() if name != "size"}
    settings |= {"seed": 1, "stages.full": 1, "imbalance.two_stage": False}

    made = train_again(first.model, divided, settings, tmp_path / "2", "CC0-1.0")

    record = made.training
    assert record is not None
    assert [stage.name for stage in record.stages] == ["head", "all"]
    assert record.stages[0].best.accuracy > 0.9  # from the first training's weights
    assert made.labels == divided.classes
    assert made.spec.output_size == (32, 32)
    assert made.licence == "CC0-1.0"


@pytest.mark.usefixtures("drawn_once", "fake_plots")
def test_a_request_becomes_a_version_that_is_trained_from_the_old_checkpoint(
    tmp_path: Path,
) -> None:
    export = tmp_path / "export"
    folders(tmp_path / "images", train=40)
    folders(tmp_path / "new", train=10, calibrate=1, test=1)
    (tmp_path / "new" / "train").rename(export)
    words = ["train", "--data", str(tmp_path / "images"), "--model", "timm:test_resnet"]
    words += ["--name", "colours", "--version", "1", "--run", str(tmp_path / "1")]
    words += ["--out", str(tmp_path), "--size", "32", "--epochs", "4", "--accept-weak-gate"]
    words += ["--alpha-reject", "0.05", "--alpha-review", "0.1"]
    quick = ("threads=1", "workers=0", "optimisation.rate=0.01", "optimisation.batch=16")
    settings = [word for setting in quick for word in ("--set", setting)]
    assert main([*words, *settings]) == 0
    old = open_bundle(tmp_path / "colours/1")
    words = ["retrain", str(filed(tmp_path / "request.json", old)), "--bundle", str(old.path)]
    words += ["--data", str(tmp_path / "1/splits.json"), "--images", str(export)]
    words += ["--checkpoint", str(tmp_path / "1/model"), "--run", str(tmp_path / "2")]
    words += ["--version", "2", "--out", str(tmp_path), "--accept-weak-gate"]

    assert main([*words, *settings, "--set", "stages.full=2"]) == 0

    new = open_bundle(tmp_path / "colours/2").manifest
    trained = sha256_of(tmp_path / "2/model/model.safetensors")
    assert new.provenance.checkpoint_sha256 == trained
    assert trained != old.manifest.provenance.checkpoint_sha256
    assert f"of bundle {old.digest}" in new.provenance.recipe
    assert (new.preprocess, new.gate.alpha_reject) == (old.manifest.preprocess, 0.05)
    assert new.evaluation is not None
    assert new.evaluation.accuracy.value > 0.9
    report = (tmp_path / "2/report.md").read_text("utf-8")
    assert "## The old test images" in report
    assert "## The new images that were held out" in report
    assert open_bundle(tmp_path / "colours/2").labels == LABELS
