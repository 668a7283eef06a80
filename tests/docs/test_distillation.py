"""The figures of the distillation are those of its result."""

from __future__ import annotations

import json

from tests.docs.pages import read
from tests.server import ROOT
from tidegate.models.benchmarks.distillation import Measured, paired, table

PAGE = read(ROOT / "docs" / "guides" / "distilling.md")
RESULT: Measured = json.loads(
    (ROOT / "load_tests/results/2026-11-30-distillation.json").read_text("utf-8")
)


def test_both_tables_are_on_the_page() -> None:
    assert table(RESULT) in PAGE
    assert paired(RESULT) in PAGE


def test_a_student_keeps_95_percent_of_its_teacher_with_a_tenth_of_the_bytes() -> None:
    for one in RESULT["found"]:
        teacher, student, *_ = one["models"]
        assert student["accuracy"]["value"] >= 0.95 * teacher["accuracy"]["value"]
        assert 10 * student["bytes"] <= teacher["bytes"]
