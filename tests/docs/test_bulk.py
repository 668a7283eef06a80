"""The figures of the page on bulk work are those of their result."""

from __future__ import annotations

import json

from tests.docs.pages import read
from tests.server import ROOT

PAGE = read(ROOT / "docs" / "guides" / "bulk.md")
RESULT = ROOT / "load_tests" / "results" / "2026-11-30-bulk-2-cores.json"
FOUND = {f["quantity"]: f["value"] for f in json.loads(RESULT.read_text("utf-8"))["findings"]}


def test_the_rate_and_the_ratio_are_those_of_the_result() -> None:
    per_s = round(FOUND["tidegate classify, images a second"])
    ratio, low, high = (
        FOUND[f"images a second, ratio{of}"]
        for of in ("", ": lower end of 95 %", ": upper end of 95 %")
    )

    assert f"{per_s} images per second: {per_s * 3600:,} per hour" in PAGE
    assert f"{2e6 / per_s / 3600:.1f} core-hours per million" in PAGE
    assert f"{ratio:.2f} times the loop (95 % interval {low:.2f} to {high:.2f}" in PAGE
