"""A training and a distillation that are killed at random moments end with the same bits."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import output
from tests.server import ROOT

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def killed(script: str, folder: Path, kills: int) -> dict[str, Any]:
    """Return what one of the scripts prints."""
    command = [sys.executable, "-m", f"tests.unit.models.training.{script}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found: dict[str, Any] = json.loads(
        output([*command, str(folder), str(kills)], ROOT, environment, 1200)
    )
    return found


def test_a_training_that_is_killed_twenty_times_ends_with_the_same_bits(tmp_path: Path) -> None:
    found = killed("killed_training", tmp_path, 20)

    assert found["kills"] == 20
    assert found["half"] == 0
    assert len({*found["digests"]}) == 1
    assert len(found["digests"]) > 2


def test_a_distillation_that_is_killed_ten_times_ends_with_the_same_bits(tmp_path: Path) -> None:
    found = killed("killed_distillation", tmp_path, 10)

    assert found["kills"] == 10
    assert found["half"] == []
    assert len({tuple(digests) for digests in found["digests"]}) == 1
    assert len(found["digests"]) > 2
