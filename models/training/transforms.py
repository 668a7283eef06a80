"""What is done to an image before the network sees it, in training and in evaluation.

The evaluation is timm's own, which the import proves to be what the service computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.torch_runtime import require
from tidegate.models.training.config import Augmentation, Mixing

_FIRST = 100  # images
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # Pillow's modes
Transform = Callable[[Image.Image], Any]  # → float tensor [3, H, W]


def load(path: Path) -> Image.Image:
    """Return the image of a file as `datasets.ImageFolder` loads it, RGB.

    Raises BuildRefused if it cannot be loaded.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's codecs raise many unrelated classes
        raise BuildRefused(f"{path} cannot be loaded: {error}. Repair or remove it.") from error


def on_depth(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return a sentence if some of the first images have values above 255, which `load` clips."""
    first = list(islice(paths, _FIRST))
    deep = [path for path in first if _mode(path) in _DEEP]
    if not deep:
        return ()
    return (
        f"{len(deep)} of the first {len(first)} training images have more than 8 bits, such as "
        f"{deep[0]}: values above 255 become white, in training and in the service. Convert them "
        "to 8 bits if they should not.",
    )


def _mode(path: Path) -> str:
    try:
        with Image.open(path) as image:
            return image.mode
    except Exception:  # noqa: BLE001 - `load` names the file
        return ""


def evaluation(data_config: Mapping[str, Any]) -> Transform:
    """Return timm's transform for evaluation with this data configuration."""
    transform: Transform = require("timm.data").create_transform(**data_config, is_training=False)
    return transform


def training(data_config: Mapping[str, Any], chosen: Augmentation, mirror: bool) -> Transform:
    """Return the random transform of training images; `mirror`: also left and right exchanged."""
    v2 = require("torchvision.transforms.v2")
    crop = v2.RandomResizedCrop(
        data_config["input_size"][-2:],
        scale=(chosen.crop, 1.0),
        ratio=(1 / chosen.stretch, chosen.stretch),
        interpolation=v2.InterpolationMode(data_config["interpolation"]),
    )
    steps: list[Any] = [crop]
    if mirror:
        steps.append(v2.RandomHorizontalFlip())
    if chosen.colour:
        steps.append(v2.ColorJitter(chosen.colour, chosen.colour, chosen.colour))
    if chosen.policy == "trivial":
        steps.append(_trivial_augment(crop.interpolation))
    elif chosen.policy == "rand":
        rand = {"num_ops": chosen.rand_operations, "magnitude": chosen.rand_magnitude}
        steps.append(v2.RandAugment(**rand, interpolation=crop.interpolation))
    steps += [v2.ToImage(), v2.ToDtype(require("torch").float32, scale=True)]
    steps.append(v2.Normalize(data_config["mean"], data_config["std"]))
    if chosen.erasing:
        steps.append(v2.RandomErasing(p=chosen.erasing))
    transform: Transform = v2.Compose(steps)
    return transform


def _trivial_augment(interpolation: Any) -> Any:
    """Return TrivialAugment with smaller turns, shears and shifts.

    Those of "TrivialAugmentWide" are up to 135° and 32 pixels: a 6 becomes a 9, and of a small
    image nothing is left.
    """
    v2, linspace = require("torchvision.transforms.v2"), require("torch").linspace

    class TrivialAugment(v2.TrivialAugmentWide):  # type: ignore[misc, name-defined]  # imported late
        _AUGMENTATION_SPACE = {  # noqa: RUF012  # as in torchvision
            **v2.TrivialAugmentWide._AUGMENTATION_SPACE,
            "Rotate": (lambda bins, height, width: linspace(0.0, 30.0, bins), True),
            "ShearX": (lambda bins, height, width: linspace(0.0, 0.3, bins), True),
            "ShearY": (lambda bins, height, width: linspace(0.0, 0.3, bins), True),
            "TranslateX": (lambda bins, height, width: linspace(0.0, 0.3 * width, bins), True),
            "TranslateY": (lambda bins, height, width: linspace(0.0, 0.3 * height, bins), True),
        }

    return TrivialAugment(interpolation=interpolation)


def mixing(chosen: Mixing, classes: int) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Return what mixes a batch: images [B, 3, H, W], classes [B] → images, targets [B, classes].

    One of MixUp and CutMix, if both are on, by chance. A batch that is not mixed keeps its classes.
    """
    v2 = require("torchvision.transforms.v2")
    kinds = [
        kind(alpha=alpha, num_classes=classes)
        for kind, alpha in ((v2.MixUp, chosen.mixup), (v2.CutMix, chosen.cutmix))
        if alpha
    ]
    mix: Callable[[Any, Any], tuple[Any, Any]] = v2.RandomApply(
        [v2.RandomChoice(kinds)], p=chosen.share
    )
    return mix
