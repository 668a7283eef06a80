from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.imaging.pictures import encode, noise
from tests.unit.models.imported import check_logits, check_pixels
from tidegate.models.errors import BuildRefused
from tidegate.models.importers import from_torchvision
from tidegate.models.importers.torch_checkpoint import Checkpoint
from tidegate.models.importers.torch_runtime import require
from tidegate.models.importers.torchvision_transforms import translate
from tidegate.service.imaging.spec import Resize

pytestmark = pytest.mark.torch

NAME = "mobilenet_v3_small"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def compose(api: str, *parts: tuple[Any, ...]) -> Any:
    """Return a Compose of (name, arguments…) of torchvision.transforms or its v2."""
    module = require("torchvision.transforms" + (".v2" if api == "v2" else ""))
    return module.Compose([getattr(module, name)(*arguments) for name, *arguments in parts])


def test_a_torchvision_model_is_served_with_the_transforms_of_its_weights_entry() -> None:
    imported = from_torchvision.load(NAME, weights="IMAGENET1K_V1", random_weights=True)

    assert imported.transform is not None
    check_pixels(imported.spec, imported.transform)
    check_logits(imported)


def test_a_weights_entry_cut_in_two_is_the_entry_itself() -> None:
    imported = from_torchvision.load(NAME, weights="IMAGENET1K_V1", random_weights=True)
    entry = require("torchvision.models").MobileNet_V3_Small_Weights.IMAGENET1K_V1
    file = encode(noise(301, 200), "PNG")

    assert imported.transform is not None
    ours = imported.transform.floats(file)

    theirs = entry.transforms()(Image.open(io.BytesIO(file)).convert("RGB")).numpy()
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("api", ["v1", "v2"])
def test_a_compose_on_images_is_served_as_torchvision_runs_it(api: str) -> None:
    floats = ("ToTensor",) if api == "v1" else ("ToImage",)
    more = () if api == "v1" else (("ToDtype", require("torch").float32, True),)
    transforms = compose(
        api, ("Resize", 72), ("CenterCrop", 65), floats, *more, ("Normalize", MEAN, STD)
    )

    imported = from_torchvision.load(NAME, own=translate(transforms, None), random_weights=True)

    assert imported.transform is not None
    assert imported.transform.backend == "pillow"
    check_pixels(imported.spec, imported.transform)


def test_a_compose_on_tensors_is_found_to_be_torchs() -> None:
    transforms = compose(
        "v2", ("ToImage",), ("Resize", (64, 64)), ("ToDtype", require("torch").float32, True)
    )

    imported = from_torchvision.load(NAME, own=translate(transforms, "torch"), random_weights=True)

    assert imported.transform is not None
    resize = Resize(height=64, width=64, filter="bilinear", backend="torch")
    assert imported.spec.steps == (resize,)
    assert imported.transform.backend == "torch"
    check_pixels(imported.spec, imported.transform)


def test_pillows_number_of_a_filter_is_understood() -> None:
    transforms = compose(
        "v2", ("Resize", (64, 64), 3), ("ToImage",), ("ToDtype", require("torch").float32, True)
    )

    imported = from_torchvision.load(NAME, own=translate(transforms, None), random_weights=True)

    assert imported.spec.steps == (Resize(height=64, width=64, filter="bicubic"),)


def test_the_number_of_classes_is_the_checkpoints(tmp_path: Path) -> None:
    torch = require("torch")
    model = require("torchvision.models").get_model(NAME, num_classes=4)
    torch.save(model.state_dict(), tmp_path / "best.pth")

    imported = from_torchvision.load(
        NAME, checkpoint=tmp_path / "best.pth", weights="IMAGENET1K_V1"
    )

    assert imported.backbone.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 4
    assert imported.labels is None
    check_logits(imported)


@pytest.mark.parametrize(("digest", "known"), [("047dcff4", True), ("047dcff5", False)])
def test_labels_are_the_entrys_only_for_the_entrys_own_file(digest: str, known: bool) -> None:
    entry = require("torchvision.models").MobileNet_V3_Small_Weights.IMAGENET1K_V1

    labels = from_torchvision._labels(entry, Checkpoint({}, digest.ljust(64, "0")))

    assert (labels is not None and labels[0] == "tench") == known


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({}, r"--weights \(IMAGENET1K_V1\)"),
        ({"weights": "IMAGENET1K_V9"}, "has no weights entry IMAGENET1K_V9"),
        ({"weights": "IMAGENET1K_V1"}, "--checkpoint FILE"),
        ({"weights": "IMAGENET1K_V1", "backend": "torch"}, "resize with pillow"),
        ({"name": "resnet19", "weights": "IMAGENET1K_V1"}, "similar: resnet"),
    ],
)
def test_an_ambiguous_source_is_rejected_with_the_option_to_give(
    arguments: dict[str, Any], advice: str
) -> None:
    with pytest.raises(BuildRefused, match=advice):
        from_torchvision.load(**({"name": NAME} | arguments))


def test_an_unknown_transform_is_named() -> None:
    transforms = compose("v1", ("Resize", 64), ("GaussianBlur", 3), ("ToTensor",))

    with pytest.raises(BuildRefused, match="GaussianBlur"):
        from_torchvision.load(NAME, own=translate(transforms, None), random_weights=True)
