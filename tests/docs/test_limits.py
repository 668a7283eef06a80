"""The page of limits states what the code does: every name exists, with the number that it gives.

A row of its tables starts with a setting or a constant (`module.NAME`, below `service` or in
`models`) and its value.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from typing import Any

import pytest

from tests.server import ROOT
from tidegate.service.settings import PREFIX, Settings

PAGE = ROOT / "docs" / "guides" / "limits.md"
TEXT = PAGE.read_text("utf-8")
ROWS = re.findall(r"^\| `([A-Za-z0-9_.]+)` \| ([^|]+?) \|", TEXT, re.MULTILINE)
NAMED = [name for name, _ in ROWS]
UNITS = {"": 1, "B": 1, "s": 1, "ms": 1, "KiB": 1 << 10, "MiB": 1 << 20}
# Settings whose names match bound something that a client can reach.
BOUNDING = re.compile(r"MAX_|TIMEOUT|DEADLINE|CLIENT_|DRAIN_|REVIEW_(?!DIR)")
# Of the operator's own labels; a file.
NO_BOUND = {"TIDEGATE_MAX_CLASS_SERIES", "TIDEGATE_TLS_CLIENT_CA"}


def number(written: str) -> float:
    """Return the number of a table's cell, such as `64 KiB`, in bytes, seconds or pieces."""
    amount, _, unit = written.partition(" ")
    return float(amount.replace(",", "")) * UNITS[unit]


def in_code(name: str) -> Any:
    """Return the value of a setting's default, a constant, or a field's default of a dataclass."""
    if name.startswith(PREFIX):
        return Settings.model_fields[name.removeprefix(PREFIX).lower()].default
    path, _, constant = name.rpartition(".")
    package, _, holder = path.rpartition(".")
    if holder[:1].isupper():
        kind = getattr(importlib.import_module(f"tidegate.service.{package}"), holder)
        return next(field.default for field in dataclasses.fields(kind) if field.name == constant)
    module = f"tidegate.{path}" if path.startswith("models.") else f"tidegate.service.{path}"
    return getattr(importlib.import_module(module), constant)


@pytest.mark.parametrize(("name", "written"), ROWS, ids=NAMED)
def test_every_bound_has_the_value_of_the_code(name: str, written: str) -> None:
    assert number(written) == pytest.approx(float(in_code(name)), rel=1e-12)


def test_every_row_starts_with_a_name_and_a_value() -> None:
    tables = re.findall(r"^\| bound \|.*\n\|[ -|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)

    assert sum(table.count("\n") for table in tables) == len(ROWS) > 80
    assert len(set(NAMED)) == len(NAMED)


def test_every_setting_that_the_text_names_exists() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}

    assert set(re.findall(r"TIDEGATE_[A-Z_]*[A-Z]", TEXT)) <= known


def test_every_setting_that_bounds_something_is_on_the_page() -> None:
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    bounding = {name for name in names if BOUNDING.search(name)} - NO_BOUND

    assert bounding - set(NAMED) == set()


def test_every_public_bound_of_the_code_is_on_the_page() -> None:
    bounds = {
        f"{'.'.join(path.relative_to(ROOT / 'service').with_suffix('').parts)}.{name}"
        for path in (ROOT / "service").rglob("*.py")
        for name in re.findall(
            r"^(?:\w+, )*(MAX_[A-Z_]+) = ", path.read_text("utf-8"), re.MULTILINE
        )
    }

    assert len(bounds) > 20
    assert bounds - set(NAMED) == set()


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)", TEXT):
        assert (PAGE.parent / target).resolve().exists(), target
