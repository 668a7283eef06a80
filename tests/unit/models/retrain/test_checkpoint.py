"""All layers are trained again, from the checkpoint of the served version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.models.training.conftest import torch_as_it_was  # noqa: F401  # a fixture
from tests.unit.models.training.small import SETTINGS, data, request
from tidegate.models.retrain.checkpoint import train_again
from tidegate.models.training.train import train

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("torch_as_it_was")]


def test_the_checkpoint_is_trained_in_stages_at_its_size(tmp_path: Path) -> None:
    divided = data(tmp_path / "colours")
    first = train(request(divided, tmp_path / "1"))
    settings = {name: value for name, value in SETTINGS.items() if name != "size"}
    settings |= {"seed": 1, "stages.full": 1, "imbalance.two_stage": False}

    made = train_again(first.model, divided, settings, tmp_path / "2", "CC0-1.0")

    record = made.training
    assert record is not None
    assert [stage.name for stage in record.stages] == ["head", "all"]
    assert record.stages[0].best.accuracy > 0.9  # from the first training's weights
    assert made.labels == divided.classes
    assert made.spec.output_size == (32, 32)
    assert made.licence == "CC0-1.0"
