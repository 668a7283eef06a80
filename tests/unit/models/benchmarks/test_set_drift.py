"""The measurement of false drift reports counts what the report would name."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.server import DEMO_BUNDLE
from tidegate.models.benchmarks.set_drift import (
    CHANGES,
    OTHER_MIX,
    UNCHANGED,
    Found,
    Seen,
    changed,
    measure,
)
from tidegate.service.bundle.store import read_manifest
from tidegate.service.drift.reference import INPUTS

IMAGES, FOLDERS = 1_000, 6


@pytest.fixture(scope="module")
def found() -> dict[str, Found]:
    """Reports on invented images, as they are, and darker."""
    rng = np.random.default_rng(0)
    manifest = read_manifest(DEMO_BUNDLE)
    classes = rng.integers(FOLDERS, size=IMAGES)
    seen = Seen(
        {name: rng.normal(size=IMAGES) for name in manifest.gate.scores},
        classes,
        rng.random(IMAGES),
        rng.random((IMAGES, len(INPUTS))),
        rng.normal(size=(IMAGES, 40)).astype(np.float32),
    )
    darker = seen.inputs.copy()
    darker[:, INPUTS.index("brightness")] *= 0.5
    sets = {UNCHANGED: seen, "darker": replace(seen, inputs=darker)}
    reports = measure(sets, [str(c) for c in classes], manifest, divisions=10, sets=3)
    return {one.change: one for one in reports}


def test_unchanged_sets_are_silent(found: dict[str, Found]) -> None:
    assert found[UNCHANGED].sets == 30
    assert found[UNCHANGED].named == 0


def test_what_changed_is_counted_by_name(found: dict[str, Found]) -> None:
    assert found["darker"].what == {"brightness": 30}
    assert found[OTHER_MIX].what["class-share"] == found[OTHER_MIX].named == 30


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_changes_keep_the_format(mode: str) -> None:
    content = io.BytesIO()
    Image.new("L", (30, 20), 200).convert(mode).save(content, "PNG")

    turned, dark = (changed(content.getvalue(), change) for change in CHANGES.values())

    with Image.open(io.BytesIO(turned)) as image:
        assert (image.format, image.size) == ("PNG", (20, 30))
    with Image.open(io.BytesIO(dark)) as image:
        assert image.convert("L").getpixel((0, 0)) == 70
