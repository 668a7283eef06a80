"""Read the preprocessing that timm's training script used, from the files that it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.torch_runtime import require

# The arguments of timm's train.py that change the preprocessing of its validation.
_PREPROCESSING = ("img_size", "input_size", "crop_pct", "mean", "std", "interpolation")


def training_arguments(
    checkpoint: Path, saved: Mapping[str, Any], name: str
) -> dict[str, Any] | None:
    """Return timm's preprocessing arguments of the training of `checkpoint`; None if unknown.

    They are in the checkpoint (`saved`) or in the `args.yaml` that train.py writes to its folder.
    Raises BuildRefused if they are those of another model than `name`.
    """
    arguments, source = saved, "the checkpoint"
    file = checkpoint.parent / "args.yaml"
    if not arguments and file.is_file():
        arguments, source = _yaml(file), str(file)
    trained = arguments.get("model")
    if not isinstance(trained, str):
        return None
    if trained.partition(".")[0] != name.partition(".")[0]:
        raise BuildRefused(f"{source} says that a {trained} was trained, not a {name}.")
    return {key: arguments[key] for key in _PREPROCESSING if arguments.get(key)}


def _yaml(file: Path) -> Mapping[str, Any]:
    yaml = require("yaml")
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BuildRefused(f"{file} is not YAML: {error}.") from error
    return content if isinstance(content, Mapping) else {}
