"""Train all layers again, from the checkpoint of the served version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tidegate.models.data.training_data import TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.importers import from_timm, timm_source
from tidegate.models.importers.base import Imported
from tidegate.models.importers.torch_export import check_exporter
from tidegate.models.training import config
from tidegate.models.training.recipe import Choice
from tidegate.models.training.train import Request, train
from tidegate.service.bundle.store import Bundle
from tidegate.service.files import sha256_of

_WEIGHTS = "model.safetensors"
_WHY = "All layers are trained again from the checkpoint of the served version, with new images."


def check(folder: Path, old: Bundle) -> None:
    """Raise BuildRefused unless `folder` has the weights that `old` was made of, as timm saves."""
    weights = folder / _WEIGHTS
    if not weights.is_file():
        raise BuildRefused(
            f"--checkpoint {folder} has no {_WEIGHTS}: give the folder `model` of the training's "
            "files, such as runs/parts/4/model."
        )
    if sha256_of(weights) != old.manifest.provenance.checkpoint_sha256:
        raise BuildRefused(
            f"{weights} is not the checkpoint of {old.manifest.name} {old.manifest.version}."
        )
    check_exporter()


def train_again(
    folder: Path,
    data: TrainingData,
    settings: Mapping[str, Any],
    run: Path,
    licence: str,
    *,
    fresh: bool = False,
    finish: bool = False,
) -> Imported:
    """Return the checkpoint in `folder`, trained in stages on the train split of `data`.

    `settings` are those of `tidegate train`, by their dotted names; the size is the checkpoint's.
    `fresh` and `finish` are those of a training's request.
    """
    name = f"{timm_source.LOCAL}{folder}"
    source = timm_source.find(name, None)
    size = int((source.pretrained_cfg or {})["input_size"][-1])
    chosen = config.read(None, {"size": size, **settings})
    choice = Choice("staged", _WHY)
    request = Request(
        source.name, source.checkpoint, data, choice, chosen, run, fresh=fresh, finish=finish
    )
    made = train(request)
    imported = from_timm.load(f"{timm_source.LOCAL}{made.model}")
    return replace(imported, licence=licence, training=made.record)
