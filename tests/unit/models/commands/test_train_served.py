"""`tidegate train` from a folder of images to a served bundle that answers as torch does."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.server import PATIENCE_S, running
from tests.unit.models.colour_folders import LABELS, folders
from tidegate.models.importers.torch_runtime import require
from tidegate.service.bundle.store import Bundle, open_bundle
from tidegate.service.cli import main

pytestmark = [pytest.mark.torch, pytest.mark.process, pytest.mark.usefixtures("drawn_once")]
IMAGES = 200  # the issue's
CLOSE = 1e-4  # the issue's


@dataclass(frozen=True)
class Trained:
    """A bundle, and the folder of its training."""

    bundle: Bundle
    run: Path
    images: list[Path]  # of the test split


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("train")
    data = folders(root / "images", train=40, test=50)
    words = ["train", "--data", str(root / "images"), "--model", "timm:test_resnet"]
    words += ["--name", "colours", "--version", "1", "--run", str(root / "run")]
    words += ["--out", str(root / "bundles"), "--ood", f"purple={data.ood['purple']}"]
    words += ["--size", "32", "--epochs", "4", "--workers", "0", "--accept-weak-gate"]
    words += ["--alpha-reject", "0.05", "--alpha-review", "0.1"]
    for setting in ("threads=1", "optimisation.rate=0.01", "optimisation.batch=16"):
        words += ["--set", setting]
    return words


@pytest.fixture(scope="module")
def trained(command: list[str]) -> Iterator[Trained]:
    threads = require("torch").get_num_threads()
    assert main(command) == 0
    root = Path(command[2]).parent
    images = sorted((root / "images/test").rglob("*.png"))
    yield Trained(open_bundle(root / "bundles/colours/1"), root / "run", images)
    require("torch").set_num_threads(threads)


def of_torch(trained: Trained) -> NDArray[np.float64]:
    """Return torch's probabilities of the test images, with timm's own loading and transform."""
    timm, torch = require("timm"), require("torch")
    model = timm.create_model(f"local-dir:{trained.run / 'model'}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in trained.images])
    with torch.inference_mode():
        logits = model(batch).double()
    temperature = trained.bundle.manifest.calibration.temperature
    probabilities: NDArray[np.float64] = (logits / temperature).softmax(dim=1).numpy()
    return probabilities


def test_the_service_answers_with_torchs_probabilities(trained: Trained) -> None:
    expected = of_torch(trained)
    largest = []

    with running(trained.bundle.path) as server, httpx.Client(timeout=PATIENCE_S) as client:
        for path, row in zip(trained.images, expected, strict=True):
            answer = client.post(
                f"{server.url}/classify", params={"top_k": len(LABELS)}, content=path.read_bytes()
            )
            if answer.status_code == 200:  # an image that is rejected has no predictions
                found = {p["label"]: p["probability"] for p in answer.json()["predictions"]}
                largest.append(np.abs([found[label] for label in LABELS] - row).max())

    assert len(largest) >= IMAGES
    assert max(largest) < CLOSE


def test_the_card_says_how_it_was_trained(trained: Trained) -> None:
    card = (trained.bundle.path / "MODEL_CARD.md").read_text()
    manifest = trained.bundle.manifest

    assert "## Training" in card
    assert "Recipe staged, seed 0, with torch" in card
    assert "| all | all layers, from random weights | 4 (all epochs done) |" in card
    assert "**Proved**" in card
    assert b"training loss" in (trained.bundle.path / "card/training.svg").read_bytes()
    assert manifest.provenance.recipe.startswith("tidegate train timm:test_resnet, seed 0, recipe")
    assert trained.bundle.labels == LABELS
    assert manifest.evaluation is not None
    assert manifest.evaluation.accuracy.value > 0.9


def test_the_contact_sheet_is_a_picture(trained: Trained) -> None:
    sheet = io.BytesIO((trained.run / "contact-sheet.png").read_bytes())

    with Image.open(sheet) as image:
        assert image.format == "PNG"


def test_the_same_command_does_not_train_again(
    command: list[str], trained: Trained, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def make(imported: Any, *given: object) -> Bundle:
        assert imported.training is not None
        return trained.bundle

    monkeypatch.setattr("tidegate.models.commands.train.make", make)
    assert main([*command, "--replace"]) == 0

    said = capsys.readouterr().err
    assert "is finished" in said
    assert "divided as in" in said


def test_a_folder_that_timm_saved_is_no_network_to_begin_with(
    command: list[str], trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained.run / "model"

    assert main([*command, f"--model=timm:local-dir:{model}", "--version=2"]) == 1

    advice = f"--model timm:test_resnet --weights {model / 'model.safetensors'}."
    assert advice in capsys.readouterr().err


def test_what_training_wrote_imports_without_options(
    command: list[str], trained: Trained, tmp_path: Path
) -> None:
    words = ["import", f"timm:local-dir:{trained.run / 'model'}", "--name", "again"]
    words += ["--splits", str(trained.run / "splits.json"), "--version", "1", "--accept-weak-gate"]
    words += ["--out", str(tmp_path), "--alpha-reject", "0.05", "--alpha-review", "0.1"]

    assert main(words) == 0

    again = open_bundle(tmp_path / "again/1").manifest
    assert again.preprocess == trained.bundle.manifest.preprocess
    assert (
        again.provenance.checkpoint_sha256 == trained.bundle.manifest.provenance.checkpoint_sha256
    )
