"""The settings of a training, its presets, and what its remedies were measured to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs.tables.markdown import table
from docs.tables.settings import default_of, values_of
from tidegate.models.training.config import PRESETS, TrainConfig, names, read
from tidegate.models.training.distil_config import DistilConfig

REMEDIES = Path(__file__).parents[2] / "tests/unit/models/training/remedies.json"


def training_settings() -> str:
    """Return a row for each setting of `tidegate train`."""
    return _settings(_fields(TrainConfig))


def distillation_settings() -> str:
    """Return a row for each setting that only `tidegate distil` has."""
    known = {name for name, _ in _fields(TrainConfig)}
    return _settings((name, field) for name, field in _fields(DistilConfig) if name not in known)


def _settings(fields: Iterable[tuple[str, FieldInfo]]) -> str:
    rows = [
        (
            f"`{name}`",
            f"`{_text(field.default)}`",
            values_of(field.annotation, field.metadata),
            field.description or "",
        )
        for name, field in fields
    ]
    return table(("setting", "default", "values", "meaning"), rows)


def training_presets() -> str:
    """Return a row for each setting in which the presets differ."""
    configs = {name: read(None, {"preset": name}).model_dump() for name in PRESETS}
    rows = []
    for name in names():
        values = [_value(config, name) for config in configs.values()]
        if len(set(map(str, values))) > 1 and name != "preset":
            rows.append((f"`{name}`", *(f"`{_text(value)}`" for value in values)))
    return table(("setting", *(f"`{name}`" for name in PRESETS)), rows)


def _text(value: object) -> str:
    """Return a value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else default_of(value)


def _fields(kind: type[TrainConfig]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in kind.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield from ((f"{name}.{inner}", f) for inner, f in part.model_fields.items())
        else:
            yield name, field


def _value(config: dict[str, object], name: str) -> object:
    value: object = config
    for part in name.split("."):
        assert isinstance(value, dict)  # noqa: S101  # a name is that of a setting
        value = value[part]
    return value


def long_tail() -> str:
    """Return a row for each way to train on digits of which some are rare."""
    head = ("training", "accuracy", "balanced accuracy", "recall of the three rarest digits")
    keys = ("accuracy", "balanced_accuracy", "rarest")
    rows = [(way, *(_percent(found, key) for key in keys)) for way, found in _measured("long tail")]
    return table(head, rows)


def mixing() -> str:
    """Return a row for each way to mix images."""
    head = ("mixing", "accuracy", "ECE of the network", "ECE after the temperature")
    rows = [
        (
            way,
            _percent(found, "accuracy"),
            *(_seeds([f"{one[key]:.4f}" for one in found]) for key in ("ece_before", "ece_after")),
        )
        for way, found in _measured("mixing")
    ]
    return table(head, rows)


def _measured(part: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield each way of a part with its results, by seed."""
    results = json.loads(REMEDIES.read_text("utf-8"))["results"]
    chosen = [one for one in results if one["part"] == part]
    for way in dict.fromkeys(one["way"] for one in chosen):
        yield way, [one for one in chosen if one["way"] == way]


def _percent(found: list[dict[str, Any]], key: str) -> str:
    return _seeds([f"{100 * one[key]:.1f}" for one in found]) + " %"


def _seeds(values: list[str]) -> str:
    return ", ".join(values)
