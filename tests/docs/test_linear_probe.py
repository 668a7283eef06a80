"""The figures of the linear probe, and of training all layers instead."""

from __future__ import annotations

import json

from tests.docs.pages import read
from tests.server import ROOT
from tidegate.models.benchmarks import fine_tuning
from tidegate.models.benchmarks.linear_probe import Measured, table, times

PAGE = read(ROOT / "docs" / "guides" / "training.md")
RESULT: Measured = json.loads(
    (ROOT / "load_tests/results/2026-11-30-linear-probe.json").read_text("utf-8")
)


def test_the_table_and_the_times_are_on_the_page() -> None:
    assert table(RESULT) in PAGE
    assert times(RESULT) in PAGE


def test_training_all_layers_is_on_the_page() -> None:
    path = ROOT / "load_tests/results/2026-12-01-fine-tuning.json"

    assert fine_tuning.table(json.loads(path.read_text("utf-8"))) in PAGE
