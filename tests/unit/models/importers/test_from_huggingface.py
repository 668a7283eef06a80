from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.imaging.pictures import encode, noise
from tests.unit.models.imported import check_logits, check_pixels
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.session import run_once
from tidegate.models.importers import from_huggingface, huggingface_rules
from tidegate.models.importers.from_huggingface import Processed
from tidegate.models.importers.huggingface_processors import PROCESSORS
from tidegate.models.importers.torch_runtime import require

pytestmark = pytest.mark.torch

SIDE = 32
SUFFIX = {"pillow": "Pil", "torch": ""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a tiny ViT, as transformers saves one."""
    transformers = require("transformers")
    require("torch").manual_seed(0)
    config = transformers.ViTConfig(
        image_size=SIDE,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        id2label={0: "bolt", 1: "nut", 2: "washer"},
        label2id={"bolt": 0, "nut": 1, "washer": 2},
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    write(tmp_path, image_processor_type="ViTImageProcessor", size=SIDE)
    return tmp_path


def write(folder: Path, **config: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


def test_a_hugging_face_model_is_served_as_transformers_runs_it(folder: Path) -> None:
    imported = from_huggingface.load(folder, backend="pillow")

    assert imported.transform is not None
    assert imported.labels == ("bolt", "nut", "washer")
    check_pixels(imported.spec, imported.transform)
    check_logits(imported)


def test_weights_in_a_torch_file_are_read(folder: Path) -> None:
    tensors = require("safetensors.torch").load_file(folder / "model.safetensors")
    require("torch").save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    check_logits(from_huggingface.load(folder, backend="pillow"))


def test_a_fast_processor_runs_on_tensors(folder: Path) -> None:
    write(folder, image_processor_type="ViTImageProcessorFast", size=SIDE)

    imported = from_huggingface.load(folder)

    assert imported.transform is not None
    assert imported.transform.backend == "torch"
    assert imported.transform.pixels(encode(noise(9, 9), "PNG")).shape == (SIDE, SIDE, 3)


def test_weights_without_a_head_are_refused(folder: Path) -> None:
    torch = require("safetensors.torch")
    tensors = torch.load_file(folder / "model.safetensors")
    del tensors["classifier.weight"]
    torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(BuildRefused, match=r"lack classifier\.weight"):
        from_huggingface.load(folder, backend="pillow")


def test_numbered_labels_are_no_labels(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(index): f"LABEL_{index}" for index in range(3)}
    (folder / "config.json").write_text(json.dumps(config))

    assert from_huggingface.load(folder, backend="pillow").labels is None


def test_the_licence_is_the_model_cards(folder: Path) -> None:
    (folder / "README.md").write_text("---\ntags:\n- vision\nlicense: mit\n---\n# Parts\n")

    assert from_huggingface.load(folder, backend="pillow").licence == "mit"


def test_a_folder_of_timms_is_sent_to_the_other_importer(folder: Path) -> None:
    (folder / "config.json").write_text('{"architecture": "resnet18"}')

    with pytest.raises(BuildRefused, match="timm:local-dir:"):
        from_huggingface.load(folder)


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json"])
def test_a_folder_that_lacks_a_file_is_rejected_with_its_name(folder: Path, missing: str) -> None:
    (folder / missing).unlink()

    with pytest.raises(BuildRefused, match=missing):
        from_huggingface.load(folder, backend="pillow")


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("backend", ["pillow", "torch"])
def test_the_table_of_defaults_is_the_librarys(name: str, backend: str) -> None:
    kind = getattr(require("transformers"), name + SUFFIX[backend])
    processor, known = kind(), PROCESSORS[name]

    theirs = {key: plain(getattr(processor, key, None)) for key in known.defaults}

    ours = {key: plain(value) for key, value in known.defaults.items()}
    assert theirs == ours
    assert getattr(kind, "default_to_square", True) == known.square


def plain(value: Any) -> Any:
    """Return a default as plain Python types; an option that is off is absent."""
    if hasattr(value, "shortest_edge"):
        value = {key: side for key, side in dict(value).items() if side is not None}
    return tuple(value) if isinstance(value, list) else value or None


@pytest.mark.parametrize("name", PROCESSORS)
def test_every_processor_on_pillow_is_served_as_transformers_runs_it(name: str) -> None:
    keys = {"size": {"shortest_edge": 288}} if name == "MobileViTImageProcessor" else {}
    found = huggingface_rules.translate({"image_processor_type": name, **keys}, "pillow")
    processor = getattr(require("transformers"), name + "Pil")(**keys)

    check_pixels(found.spec, Processed("transformers", "pillow", processor))


@pytest.mark.parametrize("name", PROCESSORS)
def test_every_processor_on_tensors_is_served_as_transformers_runs_it(name: str) -> None:
    spec = huggingface_rules.translate({"image_processor_type": name}, "torch").spec
    processor = getattr(require("transformers"), name)()

    check_pixels(spec, Processed("transformers", "torch", processor))


def _tiny(kind: str) -> Any:
    """Return a tiny model with an image encoder, with random weights."""
    transformers = require("transformers")
    require("torch").manual_seed(0)
    small = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32,
    }  # fmt: skip
    vision = {**small, "image_size": SIDE, "patch_size": 8}
    if kind == "dinov2":
        return transformers.Dinov2Model(transformers.Dinov2Config(**vision))
    text = {**small, "vocab_size": 99, "max_position_embeddings": 8}
    if kind == "siglip":
        return transformers.SiglipModel(
            transformers.SiglipConfig(vision_config=vision, text_config=text)
        )
    parts = {
        "vision_config": vision | {"projection_dim": 12},
        "text_config": text | {"projection_dim": 12},
    }
    return transformers.CLIPModel(transformers.CLIPConfig(**parts, projection_dim=12))


@pytest.mark.parametrize(("kind", "width"), [("dinov2", 16), ("clip", 12), ("siglip", 16)])
def test_the_features_of_an_encoder_are_its_pooled_output(
    tmp_path: Path, kind: str, width: int
) -> None:
    model = _tiny(kind).eval()
    model.save_pretrained(tmp_path)
    write(tmp_path, image_processor_type="ViTImageProcessor", size=SIDE)

    found = from_huggingface.load(tmp_path, backend="pillow", encoder=True)

    torch = require("torch")
    batch = np.random.default_rng(0).normal(size=(3, 3, SIDE, SIDE)).astype(np.float32)
    with torch.inference_mode():
        given = torch.from_numpy(batch)
        vision = getattr(model, "vision_model", model)
        expected = vision(pixel_values=given).pooler_output
        if kind == "clip":
            expected = model.visual_projection(expected)
    (features,) = run_once(found.backbone, ("features",), batch)
    assert features.shape == (3, width)
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-5)
    assert found.labels is None


def test_a_pooled_output_that_was_never_trained_is_refused(folder: Path) -> None:
    with pytest.raises(BuildRefused, match=r"lack pooler\.dense.* ViTModel cannot be used"):
        from_huggingface.load(folder, backend="pillow", encoder=True)
