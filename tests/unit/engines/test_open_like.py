"""A further version is opened as the running engine was, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import FakeEngine
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.open_like import open_like
from tidegate.service.errors import EngineUnavailable


def test_a_gpu_does_not_serve_what_is_calibrated_for_a_cpu() -> None:
    running = FakeEngine()
    config = EngineConfig().for_calibration("openvino")

    with pytest.raises(
        EngineUnavailable, match=r"calibrated for engine openvino, and the service runs fake"
    ):
        open_like(running, Path("model.onnx"), config, (1,), "int8")
