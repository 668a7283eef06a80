"""Import a torchvision classifier from a name, a checkpoint and the transforms of its training."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.backbone import to_backbone
from tidegate.models.importers import torch_checkpoint, torchvision_rules
from tidegate.models.importers.base import Imported
from tidegate.models.importers.composed import Composed
from tidegate.models.importers.spec_rules import PILLOW_FILTERS, three
from tidegate.models.importers.torch_checkpoint import Checkpoint
from tidegate.models.importers.torch_export import export, forward
from tidegate.models.importers.torch_runtime import require, version
from tidegate.models.importers.torchvision_rules import (
    API,
    Cropping,
    Normalising,
    Resizing,
    Stage,
    ToBytes,
    ToFloats,
    Translation,
)

_V1, _V2 = "torchvision.transforms.transforms", "torchvision.transforms.v2."
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # at the end of torchvision's file names


def load(
    name: str,
    *,
    checkpoint: Path | None = None,
    state_dict: str | None = None,
    classes: int | None = None,
    weights: str | None = None,
    compose: object | None = None,
    backend: str | None = None,
    random_weights: bool = False,
) -> Imported:
    """Import `name` ("resnet50") with the weights of a checkpoint.

    The preprocessing is that of a weights entry (`weights` "IMAGENET1K_V2"; only its transforms
    are used, nothing is downloaded) or a `Compose` of either API. If `backend` is given, the
    transforms must resize with it. Raises BuildRefused if the weights, name or preprocessing are
    ambiguous.
    """
    entry = _entry(name, weights) if compose is None else None
    if weights is not None and compose is not None:
        raise BuildRefused("Give the weights entry or the transforms, not both.")
    stages, chain = _described(compose if entry is None else entry.transforms())
    translation = torchvision_rules.translate(stages)
    if backend not in (None, translation.backend):
        raise BuildRefused(
            f"These transforms resize with {translation.backend}, not with {backend}: omit "
            "--backend, or give the transforms that were used in training."
        )
    size = translation.spec.output_size
    model, filled = _filled(name, size, checkpoint, state_dict, classes, random_weights)
    found = to_backbone(export(model, size))
    return Imported(
        backbone=found.model,
        spec=translation.spec,
        transform=_transform(translation, chain),
        forward=forward(model),
        source=f"{version('torchvision')} {name}",
        licence="none: random weights" if checkpoint is None else "unstated",
        checkpoint_sha256=filled.sha256,
        labels=_labels(entry, filled) if checkpoint is not None else None,
        notes=((filled.note,) if filled.note else ()) + found.notes,
    )


def _entry(name: str, weights: str | None) -> Any:
    """Return the weights entry whose transforms are used."""
    models = _models(name)
    entries = {entry.name: entry for entry in models.get_model_weights(name)}
    if weights is None:
        raise BuildRefused(
            f"torchvision:{name} has several weights entries with different transforms: give "
            f"--weights, one of {', '.join(entries)}."
        )
    entry = entries.get(weights.rpartition(".")[2])
    if entry is None:
        raise BuildRefused(
            f"{name} has no weights entry {weights}; available: {', '.join(entries)}."
        )
    return entry


def _models(name: str) -> Any:
    models = require("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        stem = name.rstrip("0123456789_")
        near = ", ".join([other for other in known if stem in other][:5])
        raise BuildRefused(
            f"torchvision has no classifier {name!r}{f'; similar: {near}' if near else ''}."
        )
    return models


def _filled(
    name: str,
    size: tuple[int, int],
    checkpoint: Path | None,
    state_dict: str | None,
    classes: int | None,
    random_weights: bool,
) -> tuple[Any, Checkpoint]:
    """Return the model with loaded weights, and the checkpoint."""
    if checkpoint is None and not random_weights:
        raise BuildRefused(
            f"torchvision:{name} needs weights: give --checkpoint FILE; none are downloaded. "
            "To try the import without a checkpoint, give --random-weights."
        )
    require("torch").manual_seed(0)
    if checkpoint is None:
        model = _create(name, classes)
        return model, torch_checkpoint.random(model, size)
    weights = torch_checkpoint.read(checkpoint, state_dict)
    model = _create(name, classes)
    if classes is None:
        weight = torch_checkpoint.classifier_weight(
            model, 1000
        )  # classes of torchvision's own models
        found = weights.classes(weight) if weight else None
        if found is not None and found != 1000:
            model = _create(name, found)
    weights.fill(model)
    return model, weights


def _create(name: str, classes: int | None) -> Any:
    options = {} if classes is None else {"num_classes": classes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about slow initialisation; the weights are replaced
        return _models(name).get_model(name, weights=None, **options)


def _transform(translation: Translation, chain: Sequence[Any]) -> Composed:
    cut = translation.to_pixels
    return Composed(version("torchvision"), translation.backend, chain[:cut], chain[cut:])


def _labels(entry: Any, weights: Checkpoint) -> tuple[str, ...] | None:
    """Return the entry's labels if the checkpoint's digest is that of the entry's own file."""
    digest = _DIGEST.search(entry.url) if entry is not None else None
    if digest is None or not weights.sha256.startswith(digest[1]):
        return None
    return tuple(entry.meta["categories"])


def _described(transforms: Any) -> tuple[list[Stage], list[Any]]:
    """Describe every transform of a `Compose` of either API or of a weights entry."""
    chain = list(_flat(transforms))
    return [_stage(transform) for transform in chain], chain


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
        "Supported are Resize, CenterCrop, the conversions to tensors, and Normalize."
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
