"""`tidegate train` on image encoders of Hugging Face: a linear layer, and classes from text."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image
from scipy.special import softmax

from tests.docs.pages import blocks
from tests.server import ROOT
from tests.unit.models.colour_folders import LABELS, folders
from tests.unit.models.training.conftest import torch_as_it_was  # noqa: F401  # a fixture
from tidegate.models.importers.torch_runtime import require
from tidegate.service.bundle.store import Bundle
from tidegate.service.cli import main
from tidegate.service.offline.answers import Answer
from tidegate.service.offline.predictor import Predictor

pytestmark = [
    pytest.mark.torch,
    pytest.mark.usefixtures("torch_as_it_was", "drawn_once", "fake_plots"),
]
IMAGES = 200  # the issue's
CLOSE = 1e-4  # the issue's
SIDE = 32
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
VISION = {**SMALL, "image_size": SIDE, "patch_size": 8}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("encoders") / "images"
    folders(root, train=20, calibrate=60, test=IMAGES // len(LABELS))
    return root


def train(images: Path, encoder: Path, out: Path, *more: str) -> None:
    words = ["train", "--data", str(images), "--model", f"huggingface:{encoder}"]
    words += ["--backend", "pillow", "--name", "colours", "--version", "1", "--out", str(out)]
    words += ["--run", str(out / "run"), "--alpha-reject", "0.05", "--alpha-review", "0.1"]
    assert main([*words, "--accept-weak-gate", *more]) == 0


def pixels(encoder: Path, paths: Sequence[Path]) -> Any:
    """Return what transformers' own processor makes of image files, a batch."""
    processor = require("transformers").ViTImageProcessorPil.from_pretrained(encoder)
    opened = [Image.open(path).convert("RGB") for path in paths]
    return processor(opened, return_tensors="pt")["pixel_values"]


def check(out: Path, paths: Sequence[Path], logits: NDArray[np.float64]) -> Bundle:
    """Compare the bundle's probabilities with those of the library's logits."""
    predictor = Predictor(out / "colours/1", batch_size=8)
    answers = predictor.predict([path.read_bytes() for path in paths])
    predictor.close()
    manifest = predictor.bundle.manifest
    expected = softmax(logits / manifest.calibration.temperature, axis=1)
    found = np.stack([one.probabilities for one in answers if isinstance(one, Answer)])
    assert len(found) == len(paths) >= IMAGES
    assert expected.std(axis=0).min() > 0.05  # another preprocessing would show
    assert np.abs(found - expected).max() < CLOSE
    return predictor.bundle


def test_a_linear_layer_on_an_encoder_answers_with_its_features(
    images: Path, tmp_path: Path
) -> None:
    transformers, torch = require("transformers"), require("torch")
    torch.manual_seed(0)
    transformers.Dinov2Model(transformers.Dinov2Config(**VISION)).save_pretrained(tmp_path / "own")
    put_processor(tmp_path / "own")

    train(images, tmp_path / "own", tmp_path)

    paths = sorted((images / "test").rglob("*.png"))
    model = transformers.Dinov2Model.from_pretrained(tmp_path / "own").eval()
    with torch.inference_mode():
        features = model(pixel_values=pixels(tmp_path / "own", paths)).pooler_output.double()
    weights = {
        one.name: numpy_helper.to_array(one)
        for one in onnx.load(tmp_path / "colours/1/model.onnx").graph.initializer
    }
    logits = features.numpy() @ weights["head.weight"].T + weights["head.bias"]
    assert check(tmp_path, paths, logits).labels == LABELS


def test_classes_from_text_answer_as_the_whole_network(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's program makes the text vectors."""
    monkeypatch.chdir(tmp_path)
    clip = put_clip(tmp_path / "clip", images / "train")
    (program,) = blocks(ROOT / "docs/guides/training.md", "python")
    exec(program.replace('["cat", "dog"]', repr(list(LABELS))), {})  # noqa: S102  # the page's

    train(images, tmp_path / "clip", tmp_path, "--text-embeddings", "texts.npz")

    paths = sorted((images / "test").rglob("*.png"))
    tokenizer = require("transformers").AutoTokenizer.from_pretrained(tmp_path / "clip")
    texts = tokenizer(
        [f"a photo of a {name}" for name in LABELS], padding=True, return_tensors="pt"
    )
    with require("torch").inference_mode():
        output = clip(pixel_values=pixels(tmp_path / "clip", paths), **texts)
    bundle = check(tmp_path, paths, output.logits_per_image.double().numpy())
    assert bundle.labels == LABELS
    assert "unproved zero-shot layer" in bundle.manifest.provenance.source
    assert "so it is unproved" in (bundle.path / "MODEL_CARD.md").read_text("utf-8")
    assert bundle.manifest.evaluation is not None
    assert bundle.manifest.evaluation.accuracy.value > 0.6


def put_processor(folder: Path) -> None:
    processor = {"image_processor_type": "ViTImageProcessor", "size": SIDE}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def put_clip(folder: Path, train: Path) -> Any:
    """Write a tiny CLIP, whose images are projected onto the texts of their colours; return it."""
    transformers, torch = require("transformers"), require("torch")
    torch.manual_seed(0)
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    tokens = [*letters, "<|startoftext|>", "<|endoftext|>"]
    ids = {token: number for number, token in enumerate(tokens)}
    text = {
        **SMALL, "vocab_size": len(tokens), "max_position_embeddings": 40, "projection_dim": 12,
        "bos_token_id": ids["<|startoftext|>"], "eos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }  # fmt: skip
    config = transformers.CLIPConfig(
        vision_config=VISION | {"projection_dim": 12}, text_config=text, projection_dim=12
    )
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder)
    put_processor(folder)
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 40}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    paths = sorted(train.rglob("*.png"))
    with torch.no_grad():
        words = tokenizer([f"a photo of a {n}" for n in LABELS], padding=True, return_tensors="pt")
        vectors = model.get_text_features(**words)
        vectors = getattr(vectors, "pooler_output", vectors)
        rows = [LABELS.index(path.parent.name) for path in paths]
        targets = (vectors - vectors.mean(0))[rows].double()
        seen = model.vision_model(pixel_values=pixels(folder, paths)).pooler_output.double()
        ridge = 1e-3 * seen.square().mean() * len(seen) * torch.eye(seen.shape[1]).double()
        model.visual_projection.weight.copy_(
            torch.linalg.solve(seen.T @ seen + ridge, seen.T @ targets).T
        )
    model.save_pretrained(folder)
    return model
