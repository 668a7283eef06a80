"""Import a torchvision classifier from a name, a checkpoint and the transforms of its training."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.backbone import to_backbone
from tidegate.models.importers import torch_checkpoint
from tidegate.models.importers.base import Imported, Preprocessing, Rival
from tidegate.models.importers.similar import similar
from tidegate.models.importers.torch_checkpoint import Checkpoint
from tidegate.models.importers.torch_export import export, forward
from tidegate.models.importers.torch_runtime import require, version
from tidegate.models.importers.torchvision_transforms import translate
from tidegate.service.imaging.spec import (
    CentreCropFraction,
    PreprocessSpec,
    ResizeShortestEdge,
    Step,
)

_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # at the end of torchvision's file names


# Sizes that training often uses instead of those of a weights entry.
_SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384)


def load(
    name: str,
    *,
    checkpoint: Path | None = None,
    state_dict: str | None = None,
    classes: int | None = None,
    weights: str | None = None,
    own: Preprocessing | None = None,
    backend: str | None = None,
    random_weights: bool = False,
) -> Imported:
    """Import `name` ("resnet50") with the weights of a checkpoint.

    The preprocessing is that of a weights entry (`weights` "IMAGENET1K_V2"; only its transforms
    are used, nothing is downloaded) or `own`. If `backend` is given, the transforms of the entry
    must resize with it. Raises BuildRefused if the weights, name or
    preprocessing are ambiguous.
    """
    if weights is not None and own is not None:
        raise BuildRefused("Give --weights or your own preprocessing, not both.")
    entry: Any = None if own is not None else _entry(name, weights)
    used = own or translate(entry.transforms(), backend)
    size = used.spec.output_size
    model, filled, notes = _filled(name, size, checkpoint, state_dict, classes, random_weights)
    found = to_backbone(export(model, size))
    labels = _labels(entry, filled)
    return Imported(
        backbone=found.model,
        spec=used.spec,
        transform=used.transform,
        forward=forward(model),
        source=f"{version('torchvision')} {name}",
        licence="none: random weights" if checkpoint is None else "unstated",
        checkpoint_sha256=filled.sha256,
        labels=filled.labels or labels,
        notes=notes + found.notes,
        # The entry's own weights were trained with its transforms; others perhaps were not.
        rivals=() if checkpoint is None or entry is None or labels else _rivals(used.spec),
    )


def _entry(name: str, weights: str | None) -> Any:
    """Return the weights entry whose transforms are used."""
    models = _models(name)
    entries = {entry.name: entry for entry in models.get_model_weights(name)}
    if weights is None:
        raise BuildRefused(
            f"torchvision:{name} has several weights entries with different transforms: give the "
            f"one of its training as --weights ({', '.join(entries)}), or your own transforms as "
            "--transforms FILE.py:NAME."
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
        raise BuildRefused(f"torchvision has no classifier {name!r}{similar(name, known)}.")
    return models


def _filled(
    name: str,
    size: tuple[int, int],
    checkpoint: Path | None,
    state_dict: str | None,
    classes: int | None,
    random_weights: bool,
) -> tuple[Any, Checkpoint, tuple[str, ...]]:
    """Return the model with loaded weights, the checkpoint, and notes on which were loaded."""
    if checkpoint is None and not random_weights:
        raise BuildRefused(
            f"torchvision:{name} needs weights: give --checkpoint FILE; none are downloaded. "
            "To try the import without a checkpoint, give --random-weights."
        )
    require("torch").manual_seed(0)
    if checkpoint is None:
        model = _create(name, classes)
        return model, torch_checkpoint.random(model, size), (torch_checkpoint.RANDOM,)
    weights = torch_checkpoint.read(checkpoint, state_dict)
    model = _create(name, classes)
    if classes is None:
        weight = torch_checkpoint.classifier_weight(
            model, 1000
        )  # classes of torchvision's own models
        found = weights.classes(weight) if weight else None
        if found is not None and found != 1000:
            model = _create(name, found)
    return model, weights, weights.fill(model)


def _create(name: str, classes: int | None) -> Any:
    options = {} if classes is None else {"num_classes": classes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about slow initialisation; the weights are replaced
        return _models(name).get_model(name, weights=None, **options)


def _labels(entry: Any, weights: Checkpoint) -> tuple[str, ...] | None:
    """Return the entry's labels if the checkpoint's digest is that of the entry's own file."""
    digest = _DIGEST.search(entry.url) if entry is not None else None
    if digest is None or not weights.sha256.startswith(digest[1]):
        return None
    return tuple(entry.meta["categories"])


def _rivals(spec: PreprocessSpec) -> tuple[Rival, ...]:
    """Return the same preprocessing for other sizes, with a crop in the same proportion."""
    side = spec.output_size[0]
    rivals = []
    for size in _SIZES:
        if size == side or size > 1.5 * side:
            continue
        steps = tuple(_scaled(step, size / side) for step in spec.steps)
        options = f"--transforms of {size} × {size} pixels"
        rivals.append(Rival(options, spec.model_copy(update={"steps": steps})))
    return tuple(rivals)


def _scaled(step: Step, by: float) -> Step:
    names = ("size",) if isinstance(step, ResizeShortestEdge) else ("height", "width")
    if not isinstance(step, CentreCropFraction):
        return step.model_copy(update={name: round(getattr(step, name) * by) for name in names})
    return step
