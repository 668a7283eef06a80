"""The images of the cluster tests, and the rows of `tidegate classify` for them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from load_tests.bulk.image_set import ImageSet
from tests.server import DEMO_BUNDLE, PHOTOS

IMAGES = 60
BUNDLE = DEMO_BUNDLE.resolve()


@pytest.fixture(autouse=True, scope="module")
def the_process_stays_as_it_was() -> None:
    """The drivers of Ray and Spark handle signals; these tests run in an environment alone."""


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs, a tenth of them broken."""
    folder = tmp_path_factory.mktemp("images")
    made = ImageSet(sorted(PHOTOS.glob("*.*")), 0.1, seed=3)
    for number in range(IMAGES):
        picture = made.picture(number)
        if "long" not in picture.name and "bomb" not in picture.name:
            (folder / picture.name).write_bytes(picture.data)
    shutil.copy(PHOTOS / "coffee.png", folder)
    return folder


@pytest.fixture(scope="session")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return the rows of the command, by file name."""
    from pyarrow import parquet

    from tidegate.service.cli import main

    out = tmp_path_factory.mktemp("out") / "rows.parquet"
    words = ["classify", str(images), "--bundle", str(BUNDLE), "--out", str(out), "--features"]
    assert main([*words, "--workers", "2"]) == 0
    return by_name(parquet.read_table(out).to_pylist())


def by_name(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return rows by file name, without what only the command has; each name must occur once."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = Path(row["path"]).name
        assert name not in found
        found[name] = {key: value for key, value in row.items() if key not in ("index", "path")}
    return found


def assert_equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare rows by name; batches of other sizes may differ in the last bits."""
    assert found.keys() == expected.keys()
    for name, row in found.items():
        assert _rounded(row) == pytest.approx(_rounded(expected[name]), abs=1e-5), name
        assert _exact(row) == _exact(expected[name]), name


def _rounded(value: Mapping[str, Any]) -> list[float]:
    """Return all floats of a row, in order; NaN, which pandas has for null, is left out."""
    numbers: list[float] = []
    for key in sorted(value):
        cell = value[key]
        numbers += [cell] if isinstance(cell, float) and not math.isnan(cell) else []
        if isinstance(cell, list):
            numbers += [p["probability"] if isinstance(p, Mapping) else float(p) for p in cell]
    return numbers


def _exact(row: Mapping[str, Any]) -> tuple[object, ...]:
    top = [] if row["top_k"] is None else [one["class_id"] for one in row["top_k"]]
    return (row["sha256"], row["decision"], row["error"], row["class_id"], row["label"], *top)
