"""A bundle that the set engine does not serve is refused with the reason, and with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service.engines.config import EngineConfig
from tidegate.service.errors import EngineUnavailable
from tidegate.service.startup import prepare

DOES_NOT_COMPUTE = "in {} which engine {} does not compute: set TIDEGATE_ENGINE={} "
ROUNDS_DIFFERENTLY = (
    "engine openvino, and engine {} rounds differently: set TIDEGATE_ENGINE=openvino"
)


@pytest.mark.parametrize(
    ("precision", "calibrated_for", "engine", "reason"),
    [
        ("bf16", None, "onnx-cpu", DOES_NOT_COMPUTE.format("bf16,", "onnx-cpu", "openvino")),
        ("bf16", None, "onnx-cuda", DOES_NOT_COMPUTE.format("bf16,", "onnx-cuda", "openvino")),
        ("bf16", None, "tensorrt", DOES_NOT_COMPUTE.format("bf16,", "tensorrt", "openvino")),
        ("fp16", None, "openvino", DOES_NOT_COMPUTE.format("fp16,", "openvino", "onnx-cpu")),
        ("int8", "openvino", "onnx-cpu", ROUNDS_DIFFERENTLY.format("onnx-cpu")),
        ("int8", "openvino", "tensorrt", ROUNDS_DIFFERENTLY.format("tensorrt")),
    ],
)
def test_a_bundle_for_another_engine_is_refused(
    tmp_path: Path, precision: str, calibrated_for: str | None, engine: str, reason: str
) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["precision"] = precision
        fields["gate"]["calibrated_for_engine"] = calibrated_for

    put(tmp_path, sound_files(), change)

    with pytest.raises(EngineUnavailable, match=reason):
        prepare(tmp_path, None, EngineConfig(engine, warm_up_cache=None))
