"""The page on drift says what the simulations in tests/unit/drift/months.json show."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from docs.tables.months import MONTHS
from tests.docs.pages import read
from tests.server import ROOT

PAGE = read(ROOT / "docs" / "concepts" / "drift.md")
RESULT: dict[str, Any] = json.loads(MONTHS.read_text("utf-8"))


def test_the_images_until_a_tripled_class_is_noticed_are_those_of_the_result() -> None:
    noticed = RESULT["delays"]["one of 1,000 classes tripled, after 14 days"]["noticed"]
    median, late = np.quantile(noticed, [0.5, 0.9])
    within = 100 * np.mean(np.array(noticed) <= 20_000)

    assert (
        f"noticed after a median of {median:,.0f} images if the service has run for 14 days "
        f"(90 %: {late:,.0f}; {within:.0f} % within 20,000; {len(noticed)} simulations of the "
        "whole service)"
    ) in PAGE
