"""ONNX files with a spec: what is read, what the digest covers, and what is rejected."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.unit.models import tiny
from tidegate.models.errors import BuildRefused
from tidegate.models.importers.from_onnx import load

KERAS = {"target_size": [8, 8], "interpolation": "nearest", "mode": "tf"}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny.backbone(tiny.numbers()), path)
    return path


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    return written(tmp_path, tiny.SPEC.model_dump(mode="json"))


def written(folder: Path, content: Any) -> Path:
    path = folder / "spec.json"
    path.write_text(json.dumps(content))
    return path


def test_a_file_and_its_spec_are_imported(graph: Path, spec: Path) -> None:
    imported = load(graph, spec)

    assert imported.spec == tiny.SPEC
    assert imported.checkpoint_sha256 == hashlib.sha256(graph.read_bytes()).hexdigest()
    assert (imported.source, imported.labels) == ("ONNX file tiny.onnx", None)
    assert (imported.transform, imported.forward) == (None, None)


def test_external_weights_are_loaded_and_covered_by_the_digest(graph: Path, spec: Path) -> None:
    images = np.random.default_rng(0).normal(size=(2, 3, tiny.SIDE, tiny.SIDE)).astype(np.float32)
    whole = load(graph, spec)
    model = onnx.load(graph)
    onnx.save(model, graph, save_as_external_data=True, location="tiny.data", size_threshold=0)

    split = load(graph, spec)
    weights = graph.with_name("tiny.data")
    weights.write_bytes(bytes(byte ^ 1 for byte in weights.read_bytes()))

    outputs = [
        ort.InferenceSession(i.backbone.SerializeToString()).run(["logits"], {"input": images})[0]
        for i in (whole, split)
    ]
    np.testing.assert_array_equal(*outputs)
    assert load(graph, spec).checkpoint_sha256 != split.checkpoint_sha256


def test_missing_external_weights_are_named(graph: Path, spec: Path) -> None:
    model = onnx.load(graph)
    onnx.save(model, graph, save_as_external_data=True, location="tiny.data", size_threshold=0)
    graph.with_name("tiny.data").unlink()

    with pytest.raises(BuildRefused, match=r"tiny\.data"):
        load(graph, spec)


@pytest.mark.parametrize("location", ["../outside.data", "/etc/hostname"])
def test_weights_outside_the_folder_are_refused(graph: Path, spec: Path, location: str) -> None:
    (graph.parent.parent / "outside.data").write_bytes(bytes(4096))
    model = onnx.load(graph)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField("raw_data")
    graph.write_bytes(model.SerializeToString())

    with pytest.raises(BuildRefused, match=r"tiny\.onnx cannot be read"):
        load(graph, spec)


@pytest.mark.parametrize("content", [b"", b"not a graph at all", b"\x08\x09"])
def test_a_damaged_file_is_refused(graph: Path, spec: Path, content: bytes) -> None:
    graph.write_bytes(content)

    with pytest.raises(BuildRefused, match=r"tiny\.onnx"):
        load(graph, spec)


def test_a_truncated_file_is_refused(graph: Path, spec: Path) -> None:
    content = graph.read_bytes()
    for size in range(0, len(content), 37):
        graph.write_bytes(content[:size])

        with pytest.raises(BuildRefused):
            load(graph, spec)


def test_a_missing_file_is_named(graph: Path, spec: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildRefused, match=r"other\.onnx cannot be read: No such file"):
        load(tmp_path / "other.onnx", spec)
    with pytest.raises(BuildRefused, match=r"other\.json cannot be read: No such file"):
        load(graph, tmp_path / "other.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "rgb"}, "colour: Extra inputs are not permitted"),
        ({"alpha": "keep"}, "alpha: Input should be 'drop'"),
        ({"std": [0, 1, 1]}, r"std\.0: Input should be greater than 0"),
        ({"steps": []}, "steps: Tuple should have at least 1 item"),
        ({"keras": KERAS}, "in addition to 'keras'"),
    ],
)
def test_a_wrong_field_of_the_spec_is_named(
    graph: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    content = tiny.SPEC.model_dump(mode="json") | change

    with pytest.raises(BuildRefused, match=said):
        load(graph, written(tmp_path, content))


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", pytest.param("[" * 100_000, id="deep")])
def test_a_spec_that_is_no_json_object_is_refused(graph: Path, spec: Path, text: str) -> None:
    spec.write_bytes(text.encode("latin-1"))

    with pytest.raises(BuildRefused, match=r"spec\.json is not"):
        load(graph, spec)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"interpolation": None}, r"interpolation: Input should be 'nearest'"),
        ({"interpolation": "area"}, "load_img has nearest, box"),
        ({"mode": "caffe2"}, "mode: Input should be 'caffe', 'tf', 'torch' or 'none'"),
        ({"keep_aspect_ratio": True}, "keep_aspect_ratio: true is not supported"),
        ({"loader": "image_dataset_from_directory"}, "fractional values without antialiasing"),
        ({"target_size": [8]}, "target_size"),
        ({"antialias": True}, "antialias: Extra inputs"),
    ],
)
def test_a_wrong_field_of_the_keras_form_is_named(
    graph: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(BuildRefused, match=said):
        load(graph, written(tmp_path, {"keras": KERAS | change}))


def test_the_keras_form_does_not_guess_the_interpolation(graph: Path, tmp_path: Path) -> None:
    content = {name: value for name, value in KERAS.items() if name != "interpolation"}

    with pytest.raises(BuildRefused, match="interpolation: Field required"):
        load(graph, written(tmp_path, {"keras": content}))


@pytest.mark.skipif(find_spec("keras") is not None, reason="keras is installed here")
def test_the_keras_form_without_keras_names_the_package_to_install(
    graph: Path, tmp_path: Path
) -> None:
    with pytest.raises(BuildRefused, match="keras is not installed: pip install"):
        load(graph, written(tmp_path, {"keras": KERAS}))


def test_a_spec_of_another_size_than_the_graphs_is_refused(graph: Path, tmp_path: Path) -> None:
    content = tiny.SPEC.model_dump(mode="json")
    content["steps"][0]["height"] = 9

    with pytest.raises(BuildRefused, match="gives images of 9 × 8"):
        load(graph, written(tmp_path, content))


def test_features_are_those_that_are_named(graph: Path, spec: Path) -> None:
    imported = load(graph, spec, features="pooled")

    width = imported.backbone.graph.output[1].type.tensor_type.shape.dim[1].dim_value
    assert width == 3
    assert "features: the tensor pooled" in imported.notes
