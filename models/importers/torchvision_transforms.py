"""Describe the transforms of torchvision: a `Compose` of either API, or a weights entry's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tidegate.models.errors import BuildRefused
from tidegate.models.importers import torchvision_rules
from tidegate.models.importers.base import Preprocessing
from tidegate.models.importers.composed import Composed
from tidegate.models.importers.spec_rules import PILLOW_FILTERS, three
from tidegate.models.importers.torch_runtime import require, version
from tidegate.models.importers.torchvision_rules import (
    API,
    Cropping,
    Greying,
    Normalising,
    Resizing,
    Stage,
    ToBytes,
    ToFloats,
)

_V1, _V2 = "torchvision.transforms.transforms", "torchvision.transforms.v2."


def translate(transforms: object, backend: str | None) -> Preprocessing:
    """Return the spec that equals `transforms`, and the transforms for its proof.

    If `backend` is given, they must resize with it. Raises BuildRefused with the name of a
    transform that has no exact translation.
    """
    chain = list(_flat(transforms))
    found = torchvision_rules.translate([_stage(transform) for transform in chain])
    if backend not in (None, found.backend):
        raise BuildRefused(
            f"These transforms resize with {found.backend}, not with {backend}: omit --backend, or "
            "give the transforms that were used in training."
        )
    cut = found.to_pixels
    return Preprocessing(
        found.spec, Composed(version("torchvision"), found.backend, chain[:cut], chain[cut:])
    )


def _flat(transform: Any) -> Iterator[Any]:
    match type(transform).__name__:
        case "Compose":
            for part in transform.transforms:
                yield from _flat(part)
        case "ImageClassification":
            yield from _preset(transform)
        case _:
            yield transform


def _preset(preset: Any) -> Iterator[Any]:
    """Yield the single transforms that a weights entry applies to a Pillow image."""
    transforms = require("torchvision.transforms")
    yield transforms.Resize(preset.resize_size, preset.interpolation, antialias=preset.antialias)
    yield transforms.CenterCrop(preset.crop_size)
    yield transforms.PILToTensor()
    yield transforms.ConvertImageDtype(require("torch").float32)
    yield transforms.Normalize(preset.mean, preset.std)


def _stage(transform: Any) -> Stage:
    """Describe one transform. Raises BuildRefused with its name if it is not supported."""
    api = _api(transform)
    match type(transform).__name__ if api else None:
        case "Resize":
            return _resizing(transform, api or "v1")
        case "CenterCrop":
            size = _sequence(transform.size)
            return Cropping((size[0], size[-1]))
        case "Grayscale":
            return Greying(int(transform.num_output_channels))
        case "PILToTensor" | "ToImage":
            return ToBytes(takes_images=True)
        case "ToTensor":
            return ToFloats(1 / 255, takes_images=True)
        case "ConvertImageDtype" | "ToDtype":
            return _converting(transform)
        case "Normalize":
            return Normalising(
                three("Normalize", "mean", transform.mean), three("Normalize", "std", transform.std)
            )
    raise BuildRefused(
        f"The transform {transform!r} is not supported: remove it if it only augments training. "
        "Supported are Resize, CenterCrop, Grayscale, the conversions to tensors, and Normalize."
    )


def _api(transform: Any) -> API | None:
    module = type(transform).__module__
    if module == _V1:
        return "v1"
    return "v2" if module.startswith(_V2) else None


def _resizing(transform: Any, api: API) -> Resizing:
    if transform.size is None:
        raise BuildRefused("Resize(size=None) is not supported: give a size.")
    return Resizing(
        size=_sequence(transform.size),
        interpolation=_interpolation(transform.interpolation),
        antialias=transform.antialias,
        max_size=transform.max_size,
        api=api,
    )


def _interpolation(given: Any) -> str:
    if isinstance(given, int):
        return PILLOW_FILTERS.get(int(given), str(given))
    return str(getattr(given, "value", given))


def _sequence(size: Any) -> tuple[int, ...]:
    return (int(size),) if isinstance(size, int) else tuple(int(side) for side in size)


def _converting(transform: Any) -> Stage:
    torch = require("torch")
    name = type(transform).__name__
    if transform.dtype == torch.uint8:
        return ToBytes(takes_images=False)
    if transform.dtype != torch.float32:
        raise BuildRefused(f"{name}({transform.dtype}) is not supported; use torch.float32.")
    scales = name == "ConvertImageDtype" or transform.scale
    return ToFloats(1 / 255 if scales else 1.0, takes_images=False)
