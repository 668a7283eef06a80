"""The flood replaces parts of the service by their names, so it must follow the names."""

import asyncio

import pytest

from load_tests.commands.fronts import _flood
from tests.server import DEMO_BUNDLE


@pytest.mark.process
def test_a_flood_is_measured_with_its_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("load_tests.commands.fronts._FLOOD_S", 0.2)

    found = asyncio.run(_flood(DEMO_BUNDLE, 48, "observed"))

    assert found["images_per_batch"] > 1
    assert 0 < found["loop_us_per_image"] < found["cpu_us_per_image"]
