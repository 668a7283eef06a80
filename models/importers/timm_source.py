"""Find a timm model's name, weights and configuration: by name or in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.similar import similar
from tidegate.models.importers.torch_runtime import require

LOCAL = "local-dir:"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Source:
    """A model's name and the content of a `config.json` next to its weights."""

    name: str
    checkpoint: Path | None
    pretrained_cfg: Mapping[str, Any] | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)


def find(name: str, checkpoint: Path | None) -> Source:
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
        raise BuildRefused(f"timm has no model {name!r}{similar(name, timm.list_models())}.")
    config_file = checkpoint.parent / "config.json" if checkpoint else None
    if config_file is None or not config_file.is_file() or "architecture" not in _json(config_file):
        return Source(name, checkpoint)
    source = _with_config(config_file, checkpoint)
    if source.name.partition(".")[0] != name.partition(".")[0]:
        raise BuildRefused(f"{config_file} describes a {source.name}, not a {name}.")
    return source


def _with_config(file: Path, checkpoint: Path | None) -> Source:
    if not file.is_file():
        raise BuildRefused(f"{file} does not exist, so the folder's model is unknown.")
    if "architecture" not in _json(file):
        raise BuildRefused(
            f"{file} has no timm `architecture`. Import a transformers model as huggingface:FOLDER."
        )
    cfg, name, model_args = require("timm.models._hub").load_model_config_from_path(file.parent)
    return Source(name, checkpoint, cfg, model_args)


def _weights_in(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise BuildRefused(f"{folder} has no weights ({' or '.join(_WEIGHTS)}).")


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BuildRefused(f"{file} is not JSON: {error}.") from error
    return content if isinstance(content, dict) else {}
