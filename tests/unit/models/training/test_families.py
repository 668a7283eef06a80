"""Every family of networks trains, keeps its weights and imports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.models.imported import check_logits
from tests.unit.models.training.small import SETTINGS
from tidegate.models.importers import from_timm
from tidegate.models.importers.torch_runtime import require
from tidegate.models.training import network
from tidegate.models.training.config import read
from tidegate.models.training.recipe import plan
from tidegate.models.training.stepper import Stepper

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("torch_as_it_was")]

CLASSES = ("a", "b", "c")
FAMILIES = {  # those of the table of architectures, at the smallest usual size
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "resnetrs50": 64,
    "efficientnet_b0": 64,
    "efficientnet_b3": 64,
    "efficientnet_lite0": 64,
    "tf_efficientnetv2_s": 64,
    "convnext_tiny": 64,
    "convnextv2_tiny": 64,
    "mobilenetv3_large_100": 64,
    "mobilenetv3_small_100": 64,
    "vit_small_patch16_224": 64,
    "deit_small_patch16_224": 64,
    "swin_tiny_patch4_window7_224": 64,
    "swinv2_tiny_window8_256": 64,
    "vit_small_patch14_dinov2": 70,  # DINOv2
    "vit_base_patch32_clip_224": 64,  # the image encoder of CLIP
    "vit_base_patch16_siglip_224": 64,  # and of SigLIP
}


def trained_elsewhere(name: str, folder: Path) -> Path:
    """Return a file of weights of the model as timm provides it, with its own last layer."""
    torch, timm = require("torch"), require("timm")
    torch.manual_seed(0)
    torch.save(timm.create_model(name).state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def steps(found: network.Network, settings: dict[str, Any]) -> Iterator[Stepper]:
    """Yield a stepper for each stage, after two steps on noise."""
    torch = require("torch")
    config = read(None, settings)
    size = found.data_config["input_size"]
    stages = plan("staged", config, pretrained=True, transformer=found.transformer, images=0)
    for place, stage in enumerate(stages):
        stepper = Stepper(
            found, stage, (10, 10, 10), config, place=place, steps=2, mix=None, device="cpu"
        )
        for number in range(2):
            batch = torch.randn(4, *size), torch.tensor([0, 1, 2, 0])
            assert np.isfinite(stepper.step(number, [batch], 4))
        yield stepper


@pytest.mark.parametrize(("name", "size"), FAMILIES.items(), ids=FAMILIES)
def test_a_family_trains_from_trained_weights_and_imports(
    name: str, size: int, tmp_path: Path
) -> None:
    torch = require("torch")
    torch.set_num_threads(1)
    weights = trained_elsewhere(name, tmp_path)
    found = network.create(name, len(CLASSES), size, weights, seed=0)
    head = found.head_parameters()
    before = {key: value.clone() for key, value in found.module.state_dict().items()}

    head_stage, all_stage = (
        {key: value.clone() for key, value in stepper.weights().items()}
        for stepper in steps(found, {**SETTINGS, "imbalance.two_stage": False})
    )

    floats = [key for key, value in before.items() if value.is_floating_point()]
    assert head <= {*floats}
    changed = {key for key in floats if not torch.equal(before[key], head_stage[key])}
    assert changed == head
    backbone = {name for name, _ in found.module.named_parameters()} - head
    moved = [key for key in backbone if not torch.equal(before[key], all_stage[key])]
    assert len(moved) > 0.9 * len(backbone)
    network.save(found, all_stage, CLASSES, tmp_path / "model")
    imported = from_timm.load(f"local-dir:{tmp_path / 'model'}")
    assert imported.spec.output_size == (size, size)
    assert imported.labels == CLASSES
    assert not imported.rivals
    check_logits(imported)


@pytest.mark.parametrize(
    ("name", "transformer"),
    [("resnet18", False), ("convnext_tiny", False), ("vit_tiny_patch16_224", True)],
)
def test_only_transformers_have_rates_by_layer(name: str, transformer: bool) -> None:
    found = network.create(name, 3, 64, None, seed=0)
    assert found.transformer is transformer

    stage = plan("full", read(None, {}), pretrained=True, transformer=transformer, images=9)[0]
    found.prepare(stage)
    scales = {
        g["lr_scale"] for g in found.optimiser(stage, read(None, {}).optimisation).param_groups
    }

    assert max(scales) == 1.0
    if transformer:
        assert min(scales) == pytest.approx(0.75**13)  # 12 blocks and the patches
    else:
        assert scales == {1.0, 0.1}
