"""Opening GPU engines, on fakes: the choice of `auto`, the devices, and the errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from tests.contract import tiny_graph
from tests.fake_cuda import FakeCuda, FakeDevice
from tests.fake_program import FakeProgram
from tests.fakes import identity_in, picture
from tidegate.service.engines import choose, open_gpu, warm_up
from tidegate.service.engines.base import Engine
from tidegate.service.engines.choose import open_engine
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.cuda.base import Cuda, Device
from tidegate.service.engines.cuda.open import open_cuda, open_devices
from tidegate.service.engines.faults import OutOfDeviceMemory
from tidegate.service.engines.gpu_engine import DeviceEngine
from tidegate.service.engines.gpu_program import Program
from tidegate.service.engines.multi_device import Fleet
from tidegate.service.engines.open_gpu import EngineRequest, GpuConfig, build_plans, open_gpu_engine
from tidegate.service.errors import EngineUnavailable

BUCKETS = (1, 2, 4)


@pytest.fixture(autouse=True)
def in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the measurements, whose results are not used here."""
    monkeypatch.setattr(warm_up, "_TRIAL_S", 0.0005)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_graph.sealed())
    return path


def with_gpus(
    monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda, loading: Collection[str] = open_gpu.GPU_ENGINES
) -> None:
    """Let the engines in `loading` load a fake program on fake GPUs, and the others fail."""

    def program(
        request: EngineRequest, config: GpuConfig, cuda: Cuda, device: Device
    ) -> tuple[Program, str]:
        assert isinstance(device, FakeDevice)
        if request.engine not in loading:
            raise EngineUnavailable(f"{request.engine} is not faked")
        return FakeProgram(device), "fake 1"

    monkeypatch.setattr(open_gpu, "open_program_for", program)
    for module in (open_gpu, choose):
        monkeypatch.setattr(module, "open_cuda", lambda binding, **options: cuda)


@pytest.mark.lengthy
def test_auto_uses_the_first_engine_that_loads_and_logs_the_others(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_gpus(monkeypatch, FakeCuda(), loading={"onnx-tensorrt", "onnx-cuda"})

    with caplog.at_level(logging.INFO):
        engine = open_engine(model, EngineConfig(), BUCKETS).engine

    assert engine.info.name == "onnx-tensorrt"
    assert "engine tensorrt is not available: tensorrt is not faked" in caplog.text
    assert "engine tensorrt-rtx is not available" in caplog.text
    assert "using engine onnx-tensorrt" in caplog.text


def test_auto_without_a_gpu_uses_the_cpu_and_logs_why(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_gpus(monkeypatch, FakeCuda(devices=0))

    with caplog.at_level(logging.DEBUG):
        config = EngineConfig(slots=1, threads_per_slot=1, max_batch_size=1)
        engine = open_engine(model, config, BUCKETS).engine

    assert engine.info.name == "onnx-cpu"
    levels = {record.getMessage(): record.levelname for record in caplog.records}
    assert levels["using engine onnx-cpu (no GPU available)"] == "INFO"
    assert levels["no GPU available: There is no GPU to use: none is faked."] == "DEBUG"


def test_auto_uses_the_cpu_if_no_gpu_engine_loads(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, FakeCuda(), loading=())

    config = EngineConfig(slots=1, threads_per_slot=1, max_batch_size=1)

    assert open_engine(model, config, BUCKETS).engine.info.name == "onnx-cpu"


def test_auto_is_rejected_if_no_engine_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"not a model")
    with_gpus(monkeypatch, FakeCuda(), loading=())

    with pytest.raises(EngineUnavailable, match="No engine can load"):
        open_engine(model, EngineConfig(slots=1, threads_per_slot=1), BUCKETS)


@pytest.mark.lengthy
def test_auto_tries_the_next_engine_if_warm_up_fails(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cuda = FakeCuda()
    with_gpus(monkeypatch, cuda, loading={"tensorrt", "onnx-cuda"})
    measure = warm_up.measure_batch_sizes

    def sweep(engine: Engine, *arguments: Any, **options: Any) -> dict[int, float]:
        if engine.info.name == "tensorrt":
            raise OutOfDeviceMemory("no memory for 64")
        return measure(engine, *arguments, **options)

    monkeypatch.setattr(warm_up, "measure_batch_sizes", sweep)

    with caplog.at_level(logging.INFO):
        engine = open_engine(model, EngineConfig(), BUCKETS).engine

    assert engine.info.name == "onnx-cuda"
    assert "failed during warm-up: no memory for 64. Lower TIDEGATE_MAX_BATCH_SIZE" in caplog.text
    *tried, serving = [device.closed for device in cuda.made]
    assert all(tried)
    assert not serving


@pytest.mark.parametrize(
    ("capability", "supported"),
    [((7, 5), True), ((8, 0), False), ((8, 9), True), ((9, 0), False), ((12, 1), True)],
)
def test_rtx_is_rejected_on_an_unsupported_gpu(
    capability: tuple[int, int], supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice()
    monkeypatch.setattr(device, "compute_capability", capability)

    open_gpu.refuse_device("tensorrt", device)
    if supported:
        open_gpu.refuse_device("tensorrt-rtx", device)
    else:
        with pytest.raises(EngineUnavailable, match="does not support Fake GPU"):
            open_gpu.refuse_device("tensorrt-rtx", device)


def test_the_engine_info_describes_the_loaded_engine(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, FakeCuda())

    engine = open_gpu_engine(EngineRequest(model, "tensorrt", BUCKETS, "fp16"), GpuConfig())

    assert engine.info.name == "tensorrt"
    assert engine.info.runtime == "fake 1, CUDA 0.0 (driver 0.0), fake-cuda 1"
    assert engine.info.device == "cuda:0 Fake GPU"
    assert engine.info.precision == "fp16"
    assert engine.slots == 3
    assert engine.max_batch_size == 4


@pytest.mark.lengthy
def test_each_configured_device_gets_an_engine(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda(devices=4)
    with_gpus(monkeypatch, cuda)
    config = EngineConfig("onnx-cuda", slots=2, max_batch_size=2, gpu=GpuConfig((1, 3)))

    opened = open_engine(model, config, BUCKETS)

    assert isinstance(opened.engine, Fleet)
    assert [device.index for device in cuda.made] == [1, 3]
    assert opened.engine.slots == 4
    assert opened.engine.info.device == "cuda:1 Fake GPU, cuda:3 Fake GPU"
    assert list(opened.latency_s) == [1, 2]
    assert identity_in(opened.engine.run(3, [picture(9)])) == 9


def test_a_missing_device_stops_the_start(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, FakeCuda(devices=1))
    config = EngineConfig("onnx-cuda", gpu=GpuConfig((0, 1)))

    with pytest.raises(EngineUnavailable, match=r"TIDEGATE_DEVICES contains 1, .* are visible"):
        open_engine(model, config, BUCKETS)


def test_devices_are_closed_if_opening_fails(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(devices=2, memory=1000)  # too little for one slot
    with_gpus(monkeypatch, cuda)

    with pytest.raises(EngineUnavailable, match="too little memory for one slot"):
        open_gpu_engine(EngineRequest(model, "tensorrt", (1, 64), "fp32"), GpuConfig((0, 1)))

    assert [device.closed for device in cuda.made] == [True, True]


@pytest.mark.parametrize(("gain", "graphs"), [(1.5, [1, 2]), (0.9, [])])
def test_graphs_are_used_if_they_are_faster(
    gain: float,
    graphs: list[int],
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_gpus(monkeypatch, FakeCuda())

    def took_s(engine: Any, images: Any) -> float:
        captured = isinstance(engine, DeviceEngine) and len(images) in engine.captured
        return float(0.01 * len(images) ** 0.5 / (gain if captured else 1))

    def turns(batches: Any) -> list[list[tuple[float, ...]]]:
        return [[tuple(took_s(*batch) for batch in batches)]] * batches[0][0].slots

    monkeypatch.setattr("tidegate.service.engines.warm_up.time_in_turns", turns)

    opened = open_engine(model, EngineConfig("tensorrt", max_batch_size=2), BUCKETS)

    assert isinstance(opened.engine, DeviceEngine)
    assert sorted(opened.engine.captured) == graphs
    assert opened.latency_s[1] == pytest.approx(0.01 / (gain if graphs else 1))


def test_a_missing_binding_is_reported_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.delitem(sys.modules, "tidegate.service.engines.cuda.pycuda", raising=False)

    with pytest.raises(EngineUnavailable, match=r"pycuda failed to load.*tidegate\[pycuda\]"):
        open_cuda("pycuda")


def test_devices_are_opened_only_if_there_are_some() -> None:
    with pytest.raises(EngineUnavailable, match="no GPU"):
        open_devices(FakeCuda(devices=0), [0])


def test_only_tensorrt_has_plans_to_build(model: Path) -> None:
    with pytest.raises(EngineUnavailable, match="onnx-cuda has no plans to build"):
        build_plans(EngineRequest(model, "onnx-cuda", BUCKETS, "fp32"), GpuConfig())


@pytest.mark.parametrize(
    ("engine", "module"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")]
)
def test_missing_tensorrt_is_reported_with_its_extra(
    engine: str, module: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (module, f"{module}_bindings"):
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(EngineUnavailable, match=rf"tidegate\[{engine}\]"):
        build_plans(EngineRequest(model, engine, BUCKETS, "fp32"), GpuConfig())


def test_missing_onnx_runtime_is_reported_with_its_extras(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(EngineUnavailable, match=r"tidegate\[cpu\]"):
        open_engine(model, EngineConfig("onnx-cpu", slots=1, threads_per_slot=1), BUCKETS)
