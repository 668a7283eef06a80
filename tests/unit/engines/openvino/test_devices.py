"""Intel GPUs and NPUs. Fakes stand for them: nothing here has run on one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.contract import tiny_graph
from tests.unit.engines.onnxruntime.test_cpu import photos
from tidegate.models.sealing.check import check_against_float64
from tidegate.service.engines.choose import open_engine
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.openvino import program, runtime
from tidegate.service.engines.openvino.engine import OpenVinoEngine
from tidegate.service.engines.openvino.runtime import load_openvino
from tidegate.service.errors import EngineUnavailable

pytestmark = pytest.mark.openvino

# As Intel's plugins report them. An NPU computes in fp16.
CAPABILITIES = {"GPU": ["FP32", "BIN", "FP16", "INT8"], "NPU": ["FP16", "INT8", "EXPORT_IMPORT"]}


class FakeDevices:
    """OpenVINO with two Intel GPUs and an NPU, which all compute on the CPU, in fp32."""

    available_devices = ("CPU", "GPU.0", "GPU.1", "NPU")

    def __init__(self) -> None:
        self._real = load_openvino().Core()
        self.compiled: list[tuple[str, str]] = []  # device, precision hint

    def get_property(self, device: str, name: str) -> Any:
        kind = device.partition(".")[0]
        if kind == "CPU":
            return self._real.get_property(device, name)
        return {
            "OPTIMIZATION_CAPABILITIES": CAPABILITIES[kind],
            "FULL_DEVICE_NAME": f"fake {kind}",
        }[name]

    def read_model(self, model: Path) -> Any:
        return self._real.read_model(model)

    def compile_model(self, model: Any, device: str, config: Mapping[str, str]) -> Any:
        self.compiled.append((device, config["INFERENCE_PRECISION_HINT"]))
        return self._real.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> FakeDevices:
    fake = FakeDevices()
    for module in (runtime, program):
        monkeypatch.setattr(module, "core", lambda: fake)
    return fake


def sealed(folder: Path, precision: str) -> Path:
    model = folder / "model.onnx"
    model.write_bytes(tiny_graph.sealed_in(precision))
    return model


@pytest.mark.parametrize(
    ("device", "precision", "hint"),
    [
        ("GPU", "fp32", "f32"),
        ("GPU.1", "fp16", "f16"),
        ("GPU", "int8", "f32"),
        ("NPU", "fp16", "f16"),
        ("NPU", "int8", "f16"),
    ],
)
def test_the_network_runs_on_the_device_in_its_precision_and_the_gate_on_the_cpu_in_fp32(
    tmp_path: Path, devices: FakeDevices, device: str, precision: str, hint: str
) -> None:
    model = sealed(tmp_path, precision)

    engine = OpenVinoEngine(model, buckets=(1, 64), precision=precision, device=device)

    assert devices.compiled == [(device, hint), ("CPU", "f32")]
    assert engine.info.device == f"{device} fake {device[:3]}"
    check_against_float64(engine.run(0, photos(64)), tiny_graph.head())


@pytest.mark.parametrize(
    ("device", "precision", "reason"),
    [
        ("NPU", "fp32", "in fp32, and fake NPU has no .* Serve the model's bundle in fp16 or int8"),
        ("NPU", "bf16", "in bf16, which only a CPU computes: set TIDEGATE_OPENVINO_DEVICE=CPU"),
        ("GPU", "bf16", "in bf16, which only a CPU computes: set TIDEGATE_OPENVINO_DEVICE=CPU"),
        ("GPU.2", "fp32", r"no device GPU\.2 here; it has CPU, GPU\.0, GPU\.1, NPU"),
    ],
)
def test_what_a_device_cannot_compute_is_rejected_with_the_alternative(
    tmp_path: Path, devices: FakeDevices, device: str, precision: str, reason: str
) -> None:
    config = EngineConfig("openvino", openvino_device=device)

    with pytest.raises(EngineUnavailable, match=reason):
        open_engine(sealed(tmp_path, precision), config, (1, 2), precision)


def test_a_device_is_warmed_with_two_slots(tmp_path: Path, devices: FakeDevices) -> None:
    config = EngineConfig("openvino", max_batch_size=2, openvino_device="GPU")

    warm = open_engine(sealed(tmp_path, "fp16"), config, (1, 2), "fp16")

    assert (warm.engine.slots, list(warm.latency_s)) == (2, [1, 2])
    assert warm.engine.info.precision == "fp16"
