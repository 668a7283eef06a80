"""The figures of training on digits are those of their result."""

from __future__ import annotations

import json

from tests.docs.pages import read
from tests.server import ROOT

PAGE = read(ROOT / "docs" / "guides" / "training.md")
RESULT = json.loads(
    (ROOT / "load_tests/results/2026-12-01-digits-training.json").read_text("utf-8")
)


def test_every_row_and_the_command_are_on_the_page() -> None:
    for size, found in RESULT["found"].items():
        assert [one["seed"] for one in found] == [0, 1, 2]
        nll = ", ".join(f"{one['slice_nll']:.3f}" for one in found)
        accuracy = ", ".join(f"{100 * one['accuracy']['value']:.2f}" for one in found)
        assert f"| {size} pixels | {nll} | {accuracy} % |" in PAGE

    command = RESULT["command"].replace("--size SIZE", "--size 48").replace(" --seed SEED", "")
    assert command in PAGE
