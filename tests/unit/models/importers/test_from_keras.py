"""Keras files and SavedModels against TensorFlow itself, and load_img against the service.

Slow, and skipped where TensorFlow, Keras and tf2onnx are not installed.
"""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.base import Imported
from tidegate.models.importers.from_keras import load
from tidegate.models.importers.keras_rules import KerasForm, transform, translate
from tidegate.models.importers.keras_runtime import require
from tidegate.service.imaging.preprocess import preprocess

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings(
        "ignore"
    ),  # every TensorFlow release has new warnings of its own code
    pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed"),
]
SIDE, CLASSES = 32, 5


@pytest.fixture(scope="module")
def small() -> Any:
    return network(require("keras").layers.Dense(CLASSES, activation="softmax"))


def network(*last: Any, entry: Any = None) -> Any:
    keras = require("keras")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)) if entry is None else entry,
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(12, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.2),
            *last,
        ]
    )


def spec(folder: Path, side: int = SIDE, **change: Any) -> Path:
    path = folder / "spec.json"
    form = {"target_size": [side, side], "interpolation": "bilinear", "mode": "tf"}
    path.write_text(json.dumps({"keras": form | change}))
    return path


def check(imported: Imported, model: Any, *, width: int, softmax: bool = True) -> None:
    """Hold the graph to the model as Keras runs it, and a batch of eight to eight singles."""
    size = imported.spec.output_size
    images = np.random.default_rng(0).uniform(-1, 1, size=(8, 3, *size)).astype(np.float32)
    session = ort.InferenceSession(imported.backbone.SerializeToString())

    def run(batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return list(session.run(["logits", "features"], {"input": batch}))

    logits, features = run(images)
    assert features.shape == (8, width)
    assert imported.forward is not None
    assert relative(logits, imported.forward(images)) < 1e-4
    scores = softmaxed(logits) if softmax else logits
    assert relative(scores, np.asarray(model(images.transpose(0, 2, 3, 1)))) < 1e-4
    singles = np.concatenate([run(image[None])[0] for image in images])
    assert relative(logits, singles) < 1e-5


def softmaxed(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def relative(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_keras_file_gives_the_models_own_logits(small: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"small{suffix}"
    small.save(path)

    imported = load(path, spec(tmp_path))

    assert imported.source.endswith(f"small{suffix}")
    assert "a trailing Softmax was removed" in imported.notes
    check(imported, small, width=12)


def test_a_saved_model_gives_the_models_own_logits(small: Any, tmp_path: Path) -> None:
    small.export(tmp_path / "small", verbose=False)

    imported = load(tmp_path / "small", spec(tmp_path))

    check(imported, small, width=12)
    next((tmp_path / "small" / "variables").glob("*.index")).touch()
    assert load(tmp_path / "small", spec(tmp_path)).checkpoint_sha256 == imported.checkpoint_sha256
    (tmp_path / "small" / "more").write_text("more")
    assert load(tmp_path / "small", spec(tmp_path)).checkpoint_sha256 != imported.checkpoint_sha256


def test_a_model_without_softmax_keeps_its_logits(tmp_path: Path) -> None:
    model = network(require("keras").layers.Dense(CLASSES))
    model.save(tmp_path / "m.keras")

    check(load(tmp_path / "m.keras", spec(tmp_path)), model, width=12, softmax=False)


def test_a_model_of_open_size_gets_the_specs_size(tmp_path: Path) -> None:
    keras = require("keras")
    model = network(
        keras.layers.Dense(CLASSES, activation="softmax"), entry=keras.Input((None, None, 3))
    )
    model.save(tmp_path / "m.keras")

    check(load(tmp_path / "m.keras", spec(tmp_path, 24)), model, width=12)


@pytest.mark.parametrize("form", [".keras", "SavedModel"])
def test_mobilenet_v2_of_keras_applications_is_imported(tmp_path: Path, form: str) -> None:
    keras = require("keras")
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(weights=None, classes=10)
    path = tmp_path / ("m.keras" if form == ".keras" else "m")
    if form == ".keras":
        model.save(path)
    else:
        model.export(path, verbose=False)

    check(load(path, spec(tmp_path, 224)), model, width=1280)


def test_mobilenet_whose_classifier_is_a_convolution_is_imported(tmp_path: Path) -> None:
    keras = require("keras")
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNet(weights=None, classes=10, alpha=0.25)
    model.save(tmp_path / "m.keras")

    check(load(tmp_path / "m.keras", spec(tmp_path, 224)), model, width=256)


def test_a_source_that_cannot_be_imported_is_rejected_with_an_explanation(
    small: Any, tmp_path: Path
) -> None:
    small.save(tmp_path / "small.keras")
    small.export(tmp_path / "small", verbose=False)
    (tmp_path / "broken.keras").write_bytes((tmp_path / "small.keras").read_bytes()[:2000])
    (tmp_path / "empty").mkdir()
    network(require("keras").layers.Dense(3, activation="sigmoid")).save(tmp_path / "many.keras")
    network(
        require("keras").layers.Dense(CLASSES), require("keras").layers.Lambda(lambda x: x * 2)
    ).save(tmp_path / "code.keras")

    for name, side, said in (
        ("absent.keras", SIDE, "does not exist"),
        ("broken.keras", SIDE, "Keras cannot load broken.keras"),
        ("code.keras", SIDE, "Keras cannot load code.keras"),
        ("empty", SIDE, "TensorFlow cannot load the SavedModel empty"),
        ("small.keras", 33, "gives images of 33 × 33"),
        ("many.keras", SIDE, "Sigmoid"),
    ):
        with pytest.raises(BuildRefused, match=said):
            load(tmp_path / name, spec(tmp_path, side))


def files() -> list[bytes]:
    """Images in every mode a decoder may get wrong, of odd and even sizes, some the target's."""
    rng = np.random.default_rng(0)
    found = []
    for size in ((32, 32), (33, 47), (200, 31), (1, 90), (64, 64)):
        rgba = Image.fromarray(rng.integers(0, 256, (*size[::-1], 4), np.uint8), "RGBA")
        rgb = rgba.convert("RGB")
        exif = Image.Exif()
        exif[0x0112] = 6
        sixteen = Image.fromarray(rng.integers(0, 65536, size[::-1], np.uint16))
        palette = rgb.quantize(16)
        found += [
            saved(rgb, "PNG"),
            saved(rgb, "JPEG", exif=exif),
            saved(rgb.convert("CMYK"), "JPEG"),
            saved(rgb.convert("L"), "PNG"),
            saved(rgb.convert("1"), "PNG"),
            saved(rgba, "PNG"),
            saved(rgba.convert("LA"), "PNG"),
            saved(palette, "PNG", transparency=3),
            saved(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]),
            saved(rgb, "PNG", transparency=(1, 2, 3)),
            saved(sixteen, "PNG"),
            saved(sixteen, "TIFF"),
            saved(rgb, "BMP"),
            saved(rgba, "WEBP", lossless=True),
        ]
    return found


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["caffe", "tf", "torch", "none"])
@pytest.mark.parametrize(
    "interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
)
def test_the_spec_does_what_keras_does(mode: str, interpolation: str) -> None:
    form = KerasForm.model_validate(
        {"target_size": [32, 40], "interpolation": interpolation, "mode": mode}
    )
    spec, keras = translate(form), transform(form)
    for file in files():
        pixels = preprocess(file, spec, 10**6)

        np.testing.assert_array_equal(pixels, keras.pixels(file))
        exact = (pixels * np.float64(spec.scale) - np.array(spec.mean)) / np.array(spec.std)
        # In caffe, Keras rounds the mean (≤ 3.8e-6) and then the difference (≤ 7.6e-6).
        np.testing.assert_allclose(
            keras.floats(file),
            exact.transpose(2, 0, 1),
            rtol=0,
            atol=1.2e-5 if mode == "caffe" else 1e-6,
        )
