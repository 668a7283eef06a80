"""The tables of the comparison of scores have the rows of its result."""

from __future__ import annotations

import json

import pytest

from tests.docs.pages import read
from tests.server import ROOT
from tidegate.models.benchmarks.gates.report import Figures, tables

PAGE = read(ROOT / "docs" / "guides" / "examples.md").splitlines()
RESULT: dict[str, Figures] = json.loads(
    (ROOT / "tests/unit/models/benchmarks/gates/measured.json").read_text("utf-8")
)


@pytest.mark.parametrize("model", RESULT)
def test_every_line_of_a_model_is_on_the_page(model: str) -> None:
    lines = [line for line in tables([RESULT[model]]).splitlines() if line]

    assert [line for line in lines if line not in PAGE] == []
