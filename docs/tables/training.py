"""The settings of a training, and its presets."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs.tables.markdown import table
from docs.tables.settings import default_of, values_of
from tidegate.models.training.config import PRESETS, TrainConfig, names, read


def training_settings() -> str:
    """Return a row for each setting of `tidegate train`."""
    rows = [
        (
            f"`{name}`",
            f"`{_text(field.default)}`",
            values_of(field.annotation, field.metadata),
            field.description or "",
        )
        for name, field in _fields()
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


def _fields() -> Iterator[tuple[str, FieldInfo]]:
    for name, field in TrainConfig.model_fields.items():
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
