"""Translate timm's data configuration to a PreprocessSpec. Pure: no timm, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.spec_rules import PILLOW_CONVERT, spec, three
from tidegate.service.imaging.spec import (
    FILTERS,
    CentreCrop,
    Filter,
    Pad,
    PreprocessSpec,
    Resize,
    ResizeKeepRatio,
    ResizeShortestEdge,
    Step,
)

_KEYS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
_FILTERS = FILTERS["pillow"]


def translate(config: Mapping[str, Any]) -> PreprocessSpec:
    """Return the spec that equals `timm.data.create_transform(**config, is_training=False)`.

    `config` is the result of `timm.data.resolve_input_data_config`. Raises BuildRefused with the
    option to set if a value has no exact translation.
    """
    unknown = [key for key in config if key not in _KEYS]
    absent = [key for key in _KEYS if key not in config]
    if unknown or absent:
        raise BuildRefused(
            f"timm's data configuration has unknown keys ({', '.join(unknown) or 'none'}) or "
            f"missing keys ({', '.join(absent) or 'none'}); supported are {', '.join(_KEYS)}."
        )
    return spec(
        "timm's data configuration",
        **PILLOW_CONVERT,
        steps=_steps(config, _size(config), _scaled(config), _filter(config)),
        channel_order="rgb",
        scale=1 / 255,
        mean=three("timm", "mean", _one_or_three(config["mean"])),
        std=three("timm", "std", _one_or_three(config["std"])),
    )


def _steps(
    config: Mapping[str, Any], size: tuple[int, int], scaled: tuple[int, int], filter: Filter
) -> tuple[Step, ...]:
    crop = CentreCrop(height=size[0], width=size[1], offset="half-even")
    match config["crop_mode"]:
        case "squash":
            return Resize(height=scaled[0], width=scaled[1], filter=filter), crop
        case "border":
            mean = three("timm", "mean", _one_or_three(config["mean"]))
            red, green, blue = (min(255, max(0, round(255 * value))) for value in mean)
            pad = Pad(height=size[0], width=size[1], colour=(red, green, blue), offset="half-even")
            return _keeping_ratio(scaled, "inside", filter), pad
        case "center" if scaled[0] == scaled[1]:
            return ResizeShortestEdge(size=scaled[0], rounding="truncate", filter=filter), crop
        case "center":
            return _keeping_ratio(scaled, "cover", filter), crop
    # timm treats any other value as "center".
    raise BuildRefused(
        f"timm's crop mode {config['crop_mode']!r} is not supported: give --crop-mode center, "
        "squash or border, the one that the model was evaluated with."
    )


def _keeping_ratio(
    size: tuple[int, int], fit: Literal["inside", "cover"], filter: Filter
) -> ResizeKeepRatio:
    return ResizeKeepRatio(
        height=size[0], width=size[1], fit=fit, factor="quotient", rounding="round", filter=filter
    )


def _size(config: Mapping[str, Any]) -> tuple[int, int]:
    size = config["input_size"]
    if len(size) != 3 or size[0] != 3:
        raise BuildRefused(f"The model's input is {size}; only three channels are supported.")
    return int(size[1]), int(size[2])


def _scaled(config: Mapping[str, Any]) -> tuple[int, int]:
    crop_pct = config["crop_pct"]
    if not isinstance(crop_pct, int | float) or not 0 < crop_pct <= 2:
        raise BuildRefused(f"timm's crop_pct is {crop_pct!r}: give --crop-pct, such as 0.875.")
    height, width = _size(config)
    return math.floor(height / crop_pct), math.floor(width / crop_pct)


def _filter(config: Mapping[str, Any]) -> Filter:
    name = config["interpolation"]
    for known in _FILTERS:
        if name == known:
            return known
    raise BuildRefused(
        f"timm's interpolation is {name!r}: give --interpolation, one of {', '.join(_FILTERS)}."
    )


def _one_or_three(values: Any) -> Any:
    return values[0] if isinstance(values, list | tuple) and len(values) == 1 else values
