"""A training or distillation that is killed at random moments ends with the same bits."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.processes import output
from tests.server import ROOT

KILLS = 20


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["training", "distillation"])
def test_what_is_killed_twenty_times_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.models.training.killed_training"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    found = json.loads(output([*command, kind, str(tmp_path), str(KILLS)], ROOT, environment, 1200))

    assert found["kills"] == KILLS
    assert found["half"] == 0
    assert len({*found["digests"]}) == 1
    assert len(found["digests"]) > 2
