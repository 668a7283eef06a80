"""Import a timm classifier from a name and a checkpoint, or from a folder that timm saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.backbone import to_backbone
from tidegate.models.importers import timm_rules, torch_checkpoint
from tidegate.models.importers.base import Imported
from tidegate.models.importers.composed import Composed
from tidegate.models.importers.torch_checkpoint import Checkpoint
from tidegate.models.importers.torch_export import export, forward
from tidegate.models.importers.torch_runtime import require, version

LOCAL = "local-dir:"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Overrides:
    """User overrides of the model's data configuration; None keeps the model's value."""

    size: int | None = None  # pixels, both sides
    crop_pct: float | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def stated(self) -> dict[str, Any]:
        """Return the overrides that are set, under timm's names."""
        options = {
            "img_size": self.size,
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            "interpolation": self.interpolation,
            "mean": self.mean,
            "std": self.std,
        }
        return {name: value for name, value in options.items() if value is not None}


@dataclass(frozen=True)
class _Source:
    """A model's name and the content of a `config.json` next to its weights."""

    name: str
    checkpoint: Path | None
    pretrained_cfg: Mapping[str, Any] | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)


def load(
    name: str,
    *,
    checkpoint: Path | None = None,
    state_dict: str | None = None,
    classes: int | None = None,
    backend: str | None = None,
    random_weights: bool = False,
    overrides: Overrides | None = None,
) -> Imported:
    """Import `name` ("resnet50.a1_in1k", or "local-dir:FOLDER") with the weights of a checkpoint.

    The preprocessing is that of timm's own validate.py: the model's test size, if it has one and
    no other is given. Raises BuildRefused if the weights, name or preprocessing are ambiguous.
    """
    if backend not in (None, "pillow"):
        raise BuildRefused(f"timm resizes with Pillow, not with {backend}: omit --backend.")
    overrides = overrides or Overrides()
    source = _source(name, checkpoint)
    model, weights = _filled(source, state_dict, classes, random_weights, overrides)
    config = require("timm.data").resolve_input_data_config(
        model, overrides.stated(), use_test_size=True
    )
    spec = timm_rules.translate(config)
    found = to_backbone(export(model, spec.output_size))
    return Imported(
        backbone=found.model,
        spec=spec,
        transform=_transform(config),
        forward=forward(model),
        source=f"{version('timm')} {source.name}",
        licence=_licence(source, random_weights),
        checkpoint_sha256=weights.sha256,
        labels=None if random_weights else _labels(source.pretrained_cfg, model.num_classes),
        notes=(*_notes(model, spec.output_size, weights), *found.notes),
    )


def _source(name: str, checkpoint: Path | None) -> _Source:
    """Return the model of a name, a folder, or a checkpoint next to a `config.json`."""
    if name.startswith(LOCAL):
        folder = Path(name.removeprefix(LOCAL))
        return _with_config(folder / "config.json", checkpoint or _weights_in(folder))
    if ":" in name:
        raise BuildRefused(
            f"timm:{name} is on a hub, and nothing is downloaded: save it with "
            f"timm.models.save_for_hf on a machine with network access, and import "
            f"timm:{LOCAL}FOLDER."
        )
    timm = require("timm")
    if not timm.is_model(name.partition(".")[0]):
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0]}*")[:5])
        raise BuildRefused(f"timm has no model {name!r}{f'; similar: {near}' if near else ''}.")
    config_file = checkpoint.parent / "config.json" if checkpoint else None
    if config_file is None or not config_file.is_file() or "architecture" not in _json(config_file):
        return _Source(name, checkpoint)
    source = _with_config(config_file, checkpoint)
    if source.name.partition(".")[0] != name.partition(".")[0]:
        raise BuildRefused(f"{config_file} describes a {source.name}, not a {name}.")
    return source


def _with_config(file: Path, checkpoint: Path | None) -> _Source:
    if not file.is_file():
        raise BuildRefused(f"{file} does not exist, so the folder's model is unknown.")
    if "architecture" not in _json(file):
        raise BuildRefused(
            f"{file} has no timm `architecture`. Import a transformers model as huggingface:FOLDER."
        )
    cfg, name, model_args = require("timm.models._hub").load_model_config_from_path(file.parent)
    return _Source(name, checkpoint, cfg, model_args)


def _weights_in(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise BuildRefused(f"{folder} has no weights ({' or '.join(_WEIGHTS)}).")


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise BuildRefused(f"{file} is not JSON: {error}.") from error
    return content if isinstance(content, dict) else {}


def _filled(
    source: _Source,
    state_dict: str | None,
    classes: int | None,
    random_weights: bool,
    overrides: Overrides,
) -> tuple[Any, Checkpoint]:
    """Return the model with loaded weights, and the checkpoint."""
    if source.checkpoint is None:
        if not random_weights:
            raise BuildRefused(
                f"timm:{source.name} needs weights: give --checkpoint FILE; none are downloaded. "
                "To try the import without a checkpoint, give --random-weights."
            )
        require("torch").manual_seed(0)
        model = _create(source, classes, overrides)
        size = require("timm.models").get_model_input_config(model)["input_size"][1:]
        return model, torch_checkpoint.random(model, size)
    weights = torch_checkpoint.read(source.checkpoint, state_dict)
    if classes is None:
        classes = _classes(source, weights)
    model = _create(source, classes, overrides)
    weights.fill(model)
    return model, weights


def _classes(source: _Source, weights: Checkpoint) -> int:
    """Return how many classes the checkpoint's classifier has."""
    layer = (source.pretrained_cfg or {}).get("classifier") or require(
        "timm"
    ).get_pretrained_cfg_value(source.name, "classifier")
    first = layer[0] if isinstance(layer, list | tuple) else layer
    found = weights.classes(f"{first}.weight") if first else None
    if found is None:
        raise BuildRefused(
            f"The number of classes is unknown, as the checkpoint has no classifier {first or ''} "
            f"of timm:{source.name}: give --classes, or the name of the model that was trained."
        )
    return found


def _create(source: _Source, classes: int | None, overrides: Overrides) -> Any:
    timm_models = require("timm.models")
    stated = {"img_size": overrides.size} if overrides.size is not None else {}
    try:
        arguments = timm_models.resolve_model_input_args(
            source.name,
            stated,
            pretrained_cfg=source.pretrained_cfg,
            pretrained=False,
            num_classes=classes,
            **source.model_args,
        )
        return timm_models.create_model(**arguments)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise BuildRefused(f"timm cannot create {source.name}: {error}.") from error


def _transform(config: Mapping[str, Any]) -> Composed:
    chain = require("timm.data").create_transform(**config, is_training=False).transforms
    kinds = [type(transform).__name__ for transform in chain]
    cut = kinds.index("MaybeToTensor")
    return Composed(version("timm"), "pillow", chain[:cut], chain[cut:])


def _notes(model: Any, size: tuple[int, int], weights: Checkpoint) -> tuple[str, ...]:
    notes = [weights.note] if weights.note else []
    trained = tuple(model.pretrained_cfg.get("input_size", (3, *size))[-2:])
    if trained != size:
        notes.append(
            f"Evaluated at {size[0]} × {size[1]} as timm's validate.py does, not at the "
            f"{trained[0]} × {trained[1]} of timm's training recipe."
        )
    return tuple(notes)


def _licence(source: _Source, random_weights: bool) -> str:
    if random_weights and source.checkpoint is None:
        return "none: random weights"
    return str((source.pretrained_cfg or {}).get("license") or "unstated")


def _labels(cfg: Mapping[str, Any] | None, classes: int) -> tuple[str, ...] | None:
    names = (cfg or {}).get("label_names")
    if not isinstance(names, list | tuple) or len(names) != classes:
        return None
    return tuple(str(name) for name in names)
