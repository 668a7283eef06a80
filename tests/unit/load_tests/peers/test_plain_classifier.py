"""The plain classifier preprocesses exactly as the service does, and rejects unknown steps."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from load_tests.peers.plain_classifier import Classifier, read_recipe
from tests.unit.load_tests.tiny_model import SIZE, write_tiny_model
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.imaging.spec import PreprocessSpec

RESIZE = {"op": "resize", "height": SIZE, "width": SIZE, "filter": "bicubic", "backend": "pillow"}
CROP = {"op": "centre-crop", "height": SIZE, "width": SIZE}
EDGE = {"op": "resize-shortest-edge", "filter": "bilinear", "backend": "pillow"}
FRACTION = {"op": "centre-crop-fraction", "numerator": 7, "denominator": 8}
ROADS: list[list[dict[str, Any]]] = [
    [RESIZE],
    [{**EDGE, "size": 19, "rounding": "truncate"}, {**CROP, "offset": "half-even"}],
    [{**EDGE, "size": 19, "rounding": "round"}, {**CROP, "offset": "floor"}],
    [{**EDGE, "size": 13, "rounding": "round"}, {**CROP, "offset": "half-even"}],  # pads
    [{**FRACTION, "offset": "floor"}, RESIZE],
    [{**FRACTION, "offset": "ceil"}, {**RESIZE, "filter": "lanczos"}],
]


def _noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def _encoded(image: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def _spec(steps: list[dict[str, Any]], **changes: object) -> PreprocessSpec:
    fields = {
        "exif_orientation": "apply",
        "alpha": "drop",
        "sixteen_bit": "clip",
        "steps": steps,
        "channel_order": "rgb",
        "scale": 1 / 255,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        **changes,
    }
    return TypeAdapter(PreprocessSpec).validate_python(fields)


@pytest.mark.parametrize("steps", ROADS, ids=lambda steps: steps[0]["op"])
@pytest.mark.parametrize("size", [(64, 48), (41, 77), (16, 16), (37, 37)])
def test_images_are_prepared_exactly_as_the_service_does(
    tmp_path: Path, steps: list[dict[str, Any]], size: tuple[int, int]
) -> None:
    data = _encoded(_noise(*size))
    recipe = read_recipe(write_tiny_model(tmp_path, steps=steps))

    prepared = recipe.prepare(data)

    pixels = preprocess(data, _spec(steps), 10_000_000).astype(np.float32)
    expected = ((pixels * np.float32(1 / 255) - recipe.mean) / recipe.std).transpose(2, 0, 1)
    np.testing.assert_array_equal(prepared, expected)
    assert prepared.dtype == np.float32
    assert prepared.flags.c_contiguous


def test_channels_may_be_blue_first(tmp_path: Path) -> None:
    data = _encoded(_noise(20, 20))
    rgb = read_recipe(write_tiny_model(tmp_path)).prepare(data)

    bgr = read_recipe(write_tiny_model(tmp_path, channel_order="bgr")).prepare(data)

    np.testing.assert_array_equal(bgr, rgb[::-1])


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 64))
    image.paste((255, 255, 255), (0, 0, 32, 64))  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90° clockwise: the left half becomes the top

    prepared = read_recipe(write_tiny_model(tmp_path)).prepare(_encoded(image, exif=exif))

    assert prepared[:, 2].min() > 1.9  # white is (1 − 0.5) / 0.25 = 2
    assert prepared[:, -3].max() < -1.9


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_modes_become_three_channels(tmp_path: Path, mode: str) -> None:
    buffer = BytesIO()
    Image.new(mode, (30, 20)).save(buffer, "TIFF")

    assert read_recipe(write_tiny_model(tmp_path)).prepare(buffer.getvalue()).shape == (3, 16, 16)


def test_an_answer_has_the_labels_of_the_best_classes_first(tmp_path: Path) -> None:
    classifier = Classifier(write_tiny_model(tmp_path))

    answer = classifier.classify(_encoded(Image.new("RGB", (9, 9), (0, 51, 255))))

    predictions: Any = answer["predictions"]
    assert [p["label"] for p in predictions] == ["blue", "green", "red"]
    assert [p["class_id"] for p in predictions] == [2, 1, 0]
    # Logits 2, −1.2 and −2 by hand: (x / 255 − 0.5) / 0.25.
    exponentials = np.exp([2, -1.2, -2])
    found = [p["probability"] for p in predictions]
    np.testing.assert_allclose(found, exponentials / exponentials.sum(), atol=2e-6)  # rounded to 6


def test_a_batch_is_answered_in_order(tmp_path: Path) -> None:
    classifier = Classifier(write_tiny_model(tmp_path), threads=2)
    colours = [(255, 0, 0), (0, 0, 255), (0, 255, 0)]
    images = [classifier.recipe.prepare(_encoded(Image.new("RGB", (9, 9), c))) for c in colours]

    answers: Any = classifier.classify_prepared(images)

    assert [a["predictions"][0]["label"] for a in answers] == ["red", "blue", "green"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": [{"op": "flip"}]}, "does not support the step 'flip'"),
        ({"steps": [{**RESIZE, "backend": "torch"}]}, "with Pillow, not 'torch'"),
        ({"steps": [{**RESIZE, "filter": "mitchell"}]}, "no filter 'mitchell'"),
        ({"steps": [{**CROP, "offset": "up"}]}, "does not support the crop offset 'up'"),
        ({"mean": "grey"}, "cannot be read"),
        ({"steps": None}, "cannot be read"),
    ],
)
def test_an_unsupported_step_is_an_error(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        read_recipe(write_tiny_model(tmp_path, **changes))


def test_a_folder_without_a_file_is_an_error(tmp_path: Path) -> None:
    (write_tiny_model(tmp_path) / "labels.txt").unlink()

    with pytest.raises(FileNotFoundError, match=r"no labels\.txt"):
        read_recipe(tmp_path)
