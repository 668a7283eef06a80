"""The settings, and the presets of the platforms."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from docs.tables.markdown import table
from tidegate.service import platforms
from tidegate.service.settings import PREFIX, Settings
from tidegate.service.settings.profiles import PROFILES
from tidegate.service.settings.theme import Theme

_PRESET_SETTINGS = ("host", "port", "dialects", "drain_delay_s", "drain_timeout_s")


def settings() -> str:
    """Return a section for each theme, with a row for each setting."""
    themes = [base for base in Settings.__bases__ if issubclass(base, Theme)]
    return "\n\n".join(
        f"## {(theme.__doc__ or '').rstrip('.')}\n\n{_rows(theme)}" for theme in themes
    )


def _rows(theme: type[Theme]) -> str:
    rows = [
        (
            f"`{PREFIX}{name.upper()}`",
            f"`{default_of(field.default)}`",
            values_of(field.annotation, field.metadata),
            field.description or "",
        )
        for name, field in theme.model_fields.items()
    ]
    return table(("variable", "default", "values", "meaning"), rows)


def default_of(default: object) -> str:
    """Return a default as the table shows it."""
    return "unset" if default is None else str(default)


def values_of(annotation: Any, metadata: Iterable[Any]) -> str:
    """Return the values of a field with this type and these bounds, in words."""
    kinds = [annotation]
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    words = [_choices(kind) or _number(kind, metadata) for kind in kinds]
    return ", ".join(words)


def _choices(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    return "`true`, `false`" if annotation is bool else ""


def _number(annotation: Any, metadata: Iterable[Any]) -> str:
    bounds = {
        name: getattr(constraint, name)
        for constraint in metadata
        for name in ("ge", "gt", "le", "lt")
        if getattr(constraint, name, None) is not None
    }
    words = []
    if "ge" in bounds and "le" in bounds:
        words.append(f"{bounds['ge']:,} to {bounds['le']:,.15g}")
    elif "ge" in bounds:
        words.append(f"at least {bounds['ge']:,}")
    if "gt" in bounds:
        words.append(f"above {bounds['gt']:,}")
        if "le" in bounds:
            words.append(f"at most {bounds['le']:,.15g}")
    if "lt" in bounds:
        words.append(f"below {bounds['lt']:,.15g}")
    kind = {int: "integer", float: "number", str: "text", Path: "path"}[annotation]
    return f"{kind}, {', '.join(words)}" if words else kind


def presets() -> str:
    """Return a row for each platform: what its preset makes the default of which setting."""
    rows = [
        (
            f"`{platform}`",
            *(f"`{platforms.preset(platform, {})[name]}`" for name in _PRESET_SETTINGS),
        )
        for platform in platforms.PLATFORMS
    ]
    head = ("platform", *(f"`{PREFIX}{name.upper()}`" for name in _PRESET_SETTINGS))
    return table(head, rows)


def profile_edge() -> str:
    """Return a row for each setting whose default the profile `edge` changes."""
    rows = [
        (
            f"`{PREFIX}{name.upper()}`",
            f"`{default_of(value)}`",
            f"`{default_of(Settings.model_fields[name].default)}`",
        )
        for name, value in PROFILES["edge"].items()
    ]
    return table(("variable", "with the profile", "without"), rows)
