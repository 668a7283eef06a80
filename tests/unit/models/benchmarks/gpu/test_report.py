"""The parts of the GPU report, on a fake of CUDA around the real ONNX Runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fake_cuda import FakeCuda, FakeDevice
from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.models.benchmarks.gpu import engine, environment, http, report, suite
from tidegate.models.benchmarks.gpu.config import ReportConfig, quick
from tidegate.models.benchmarks.gpu.measure import MeasurementBudget
from tidegate.models.benchmarks.gpu.parts import Parts
from tidegate.models.probes.photographs import PHOTOS
from tidegate.service.cli import main
from tidegate.service.engines.cuda.base import Address, Cuda, Device, StreamHandle
from tidegate.service.engines.faults import CudaError
from tidegate.service.engines.gpu_program import DeviceGraph, Execution, Program
from tidegate.service.engines.onnxruntime.gpu import OnnxGpuProgram
from tidegate.service.engines.onnxruntime.session import Provider
from tidegate.service.engines.open_gpu import EngineRequest, GpuConfig
from tidegate.service.errors import EngineUnavailable

pytestmark = pytest.mark.process

QUICK = MeasurementBudget(runs=3, warm_up=1, seconds=0.02, plateau=20, http_s=0.5)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in PHOTOS[:3]:
        Image.open(path).convert("RGB").save(folder / f"{path.stem}.jpg")
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return put(tmp_path / "tiny" / "1", sound_files())


class StickyDevice(FakeDevice):
    """A device that, once its process has lost it, cannot even be closed."""

    def close(self) -> None:
        super().close()
        if self.lost:
            raise CudaError("cudaFree", 700, "an illegal memory access was encountered")


class StickyCuda(FakeCuda):
    """One whose devices are all lost together."""

    def device(self, index: int) -> FakeDevice:
        self.made.append(StickyDevice(index, self.memory))
        return self.made[-1]

    def lose(self) -> None:
        for device in self.made:
            device.lost = True


@dataclass
class FailingProgram:
    """The real ONNX Runtime on a fake device, until `fail` raises at a batch."""

    real: OnnxGpuProgram
    fail: Callable[[int], None]  # called with each batch's size
    capturable: bool = False
    execution_bytes: int = 0
    in_stream_order: bool = False
    input_size: tuple[int, int] = field(init=False)
    outputs: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.input_size, self.outputs = self.real.input_size, self.real.outputs

    def execution(self, device: Device, workspace: Address) -> Execution:
        return FailingExecution(self.real.execution(device, workspace), self.fail)

    def can_capture(self, device: Device) -> bool:
        return self.capturable

    def graph(self, device: Device, workspace: Address) -> DeviceGraph:
        return DeviceGraph(device, self.execution(device, workspace))

    def keep(self, largest: int) -> None:
        self.real.keep(largest)


@dataclass
class FailingExecution:
    """A slot's state of a FailingProgram."""

    real: Execution
    fail: Callable[[int], None]

    def enqueue(
        self, batch: int, pixels: Address, outputs: Mapping[str, Address], stream: StreamHandle
    ) -> None:
        self.fail(batch)
        self.real.enqueue(batch, pixels, outputs, stream)


@dataclass
class FakeGpu:
    """The fakes for the report: CUDA, and the program of each engine."""

    cuda: StickyCuda
    # By engine; one that is not named does not load.
    programs: dict[str, Callable[[OnnxGpuProgram], Program]] = field(default_factory=dict)

    def open_program(
        self, request: EngineRequest, config: GpuConfig, cuda: Cuda, device: Device
    ) -> tuple[Program, str]:
        if request.engine not in self.programs:
            raise EngineUnavailable(f"{request.engine} is not faked")
        cpu: list[Provider] = [("CPUExecutionProvider", {})]
        real = OnnxGpuProgram(request.model, "onnx-cpu", cpu, device, memory="cpu")
        return self.programs[request.engine](real), "fake 1"


@pytest.fixture
def on_a_fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    gpu = FakeGpu(StickyCuda(), {"onnx-cuda": lambda real: real})
    monkeypatch.setattr(report, "open_cuda", lambda binding: gpu.cuda)
    monkeypatch.setattr(engine, "open_program_for", gpu.open_program)
    monkeypatch.setattr("tidegate.service.engines.warm_up._TRIAL_S", 0.0005)
    yield gpu
    assert all(device.closed for device in gpu.cuda.made)


def config(bundle: Path, photos: Path, **changed: Any) -> ReportConfig:
    chosen: dict[str, Any] = {
        "bundles": [bundle],
        "engines": ["tensorrt", "onnx-cuda"],
        "precisions": ["fp32"],
        "photos": photos,
        "max_batch_size": 4,
        "gpu": GpuConfig(),
        "budget": QUICK,
        "tests": False,
        "over_http": False,
    }
    return ReportConfig(**{**chosen, **changed})


def made_of(config: ReportConfig) -> dict[str, Any]:
    """Return a report as read from its JSON."""
    made: dict[str, Any] = json.loads(json.dumps(report.make(config, lambda so_far: None)))
    return made


@pytest.mark.usefixtures("on_a_fake_gpu")
def test_a_report_lists_what_ran_and_what_did_not_with_the_reason(
    bundle: Path, photos: Path
) -> None:
    kept: list[str] = []

    made = report.make(config(bundle, photos), lambda so_far: kept.append(json.dumps(so_far)))

    (measured,) = json.loads(json.dumps(made["engines"]))
    assert measured["info"]["device"] == "cuda:0 Fake GPU"
    same = measured["parity"]["against_the_same_graph_on_the_cpu"]
    assert same["images"] == 3 + 64
    assert same["logits"] < 1e-5
    assert same["flips"] == same["other_class"] == 0
    assert [bucket["images"] for bucket in measured["buckets"]] == [1, 2, 4]
    assert set(measured["buckets"][0]["parts_ms"]) == {"copy_in", "compute", "copy_out"}
    assert [pair["images"] for pair in measured["alternating"]] == [[1, 2], [2, 4]]
    assert all(len(pair["ratio"]) == 2 for pair in measured["alternating"])
    assert set(measured["slots"]["of_bare_loop"]) == {"1", "2", "3"}
    assert measured["slots"]["of_one_slot"]["1"] == 1
    assert measured["overlap"]["slots"] == 3
    assert measured["memory"]["early_bytes"] == measured["memory"]["late_bytes"]
    assert measured["road"]["from_jpeg"]["images_per_s"] > 0
    assert 0 < measured["road"]["from_jpeg"]["decode_share"] <= 1.1
    unloaded = "tiny in fp32 on tensorrt: EngineUnavailable: tensorrt is not faked"
    assert made["not_run"] == [unloaded]
    first = next(so_far for so_far in map(json.loads, kept) if so_far["engines"])
    assert set(first["engines"][0]) == {"bundle", "digest", "info", "loaded_s", "parity"}
    assert any("onnxruntime" in name for name in made["libraries"])  # type: ignore[attr-defined]


@pytest.mark.usefixtures("on_a_fake_gpu")
def test_fp16_is_the_bundles_backbone_with_its_gate(bundle: Path, photos: Path) -> None:
    made = made_of(config(bundle, photos, engines=["onnx-cuda"], precisions=["fp16", "int8"]))

    (measured,) = made["engines"]
    sealed = measured["parity"]["against_the_sealed_graph_on_the_cpu"]
    assert 0 < sealed["logits"] < 2e-2
    assert made["not_run"] == ["tiny in int8: BuildRefused: the bundle is in fp32"]


def test_an_engine_that_fails_does_not_stop_the_others(
    bundle: Path, photos: Path, on_a_fake_gpu: FakeGpu
) -> None:
    def without_its_constructor(real: OnnxGpuProgram) -> Program:
        raise TypeError("pybind11_object.__new__(): factory function returned nullptr")

    on_a_fake_gpu.programs["tensorrt"] = without_its_constructor

    made = made_of(config(bundle, photos))

    assert [measured["info"]["name"] for measured in made["engines"]] == ["onnx-cuda"]
    (failed,) = made["not_run"]
    assert failed.startswith("tiny in fp32 on tensorrt: TypeError: pybind11_object")


def test_results_before_an_engines_failure_are_kept(
    bundle: Path, photos: Path, on_a_fake_gpu: FakeGpu
) -> None:
    def no_fours(batch: int) -> None:
        if batch == 4:
            raise ArithmeticError("no kernel for 4")

    on_a_fake_gpu.programs["onnx-cuda"] = lambda real: FailingProgram(real, no_fours)

    made = made_of(config(bundle, photos, engines=["onnx-cuda"]))

    (measured,) = made["engines"]
    one, two, four = measured["buckets"]
    assert one["eager_p50_ms"] > 0
    assert two["eager_p50_ms"] > 0
    assert four == {"images": 4}
    assert measured["alternating"][0]["ratio"]
    assert measured["alternating"][1] == {"images": [2, 4]}
    failed = {line.split(": ArithmeticError: no kernel for 4")[0] for line in made["not_run"]}
    assert failed == {
        f"tiny in fp32 on onnx-cuda, {part}"
        for part in (
            "numbers",
            "batches of 4",
            "batches of 2 and 4 in turn",
            "overlap",
            "memory",
            "slots",
            "road",
        )
    }


def test_a_graph_that_a_runtime_refuses_costs_no_other_figure(
    bundle: Path, photos: Path, on_a_fake_gpu: FakeGpu
) -> None:
    class Refusing(StickyDevice):
        def capture(self, stream: StreamHandle, enqueue: Callable[[], None]) -> Any:
            raise CudaError("cudaStreamEndCapture", 901, "operation failed due to a previous error")

    class RefusingCuda(StickyCuda):
        def device(self, index: int) -> FakeDevice:
            self.made.append(Refusing(index, self.memory))
            return self.made[-1]

    on_a_fake_gpu.cuda = RefusingCuda()
    on_a_fake_gpu.programs["onnx-cuda"] = lambda real: FailingProgram(
        real, lambda batch: None, capturable=True
    )

    made = made_of(config(bundle, photos, engines=["onnx-cuda"]))

    (measured,) = made["engines"]
    assert all(row["eager_p50_ms"] > 0 for row in measured["buckets"])
    assert measured["road"]["graphs"] == []
    refused = "CudaError: cudaStreamEndCapture: CUDA error 901, operation failed"
    assert len(made["not_run"]) == 3
    assert all(f"as a graph: {refused}" in line for line in made["not_run"])


def test_nothing_more_is_measured_in_a_process_that_has_lost_its_device(
    bundle: Path, photos: Path, on_a_fake_gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    def lost_with_two(batch: int) -> None:
        opened.append(len(on_a_fake_gpu.cuda.made))
        if batch == 2:
            on_a_fake_gpu.cuda.lose()
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    def loaded_elsewhere(*given: object) -> Iterator[tuple[str, object]]:
        yield "closed_loop", {"throughput": 1.0}

    on_a_fake_gpu.programs["onnx-cuda"] = lambda real: FailingProgram(real, lost_with_two)
    on_a_fake_gpu.programs["tensorrt"] = lambda real: real
    monkeypatch.setattr(http, "measure", loaded_elsewhere)
    engines = ["onnx-cuda", "tensorrt"]

    made = made_of(
        config(bundle, photos, engines=engines, precisions=["fp32", "fp16"], over_http=True)
    )

    (measured,) = made["engines"]
    assert "parity" in measured
    assert measured["buckets"][0]["eager_p50_ms"] > 0
    here, lost_in = "tiny in fp32 on onnx-cuda", "tiny in fp32 on onnx-cuda, batches of 2"
    lost = f"skipped, as the device was lost in: {lost_in}"
    closing = "CudaError: cudaFree: CUDA error 700, an illegal memory access was encountered"
    assert [line for line in made["not_run"] if not line.endswith(lost)] == [
        f"{lost_in}: RuntimeError: CUDA failure 700: an illegal memory access was encountered",
        f"{here}, closing: {closing}",
        f"{here}, closing: {closing}",
    ]
    assert [line.removesuffix(f": {lost}") for line in made["not_run"] if line.endswith(lost)] == [
        f"{here}, batches of 4",
        *(f"{here}, {part}" for part in ("alternating sizes", "overlap", "memory", "slots")),
        f"{here}, road",
        "tiny in fp32 on tensorrt",
        "tiny in fp16",
    ]
    assert len(on_a_fake_gpu.cuda.made) == opened[-1]
    assert set(made["http"]) == {"tiny on onnx-cuda", "tiny on tensorrt"}
    assert made["libraries"]


def test_a_lost_device_is_reported_with_the_part_in_which_it_was_lost(
    bundle: Path, photos: Path, on_a_fake_gpu: FakeGpu
) -> None:
    def lost_at_once(batch: int) -> None:
        on_a_fake_gpu.cuda.lose()
        raise RuntimeError("an illegal memory access was encountered")

    on_a_fake_gpu.programs["onnx-cuda"] = lambda real: FailingProgram(real, lost_at_once)

    made = made_of(config(bundle, photos, engines=["onnx-cuda"]))

    skipped = "skipped, as the device was lost in: tiny in fp32 on onnx-cuda, numbers"
    assert f"tiny in fp32 on onnx-cuda, latency: {skipped}" in made["not_run"]


def test_a_lost_device_is_detected_in_the_cause_of_an_error() -> None:
    made: dict[str, object] = {}
    parts = Parts(made, lambda so_far: None)

    def failing() -> None:
        try:
            raise CudaError("cudaMalloc", 700, "an illegal memory access was encountered")
        except CudaError as error:
            raise EngineUnavailable("The engine does not load.") from error

    parts.run_on_device("first", failing)
    parts.run_on_device("second", lambda: made.update(second=2))

    assert made["not_run"] == [
        "first: EngineUnavailable: The engine does not load.",
        "second: skipped, as the device was lost in: first",
    ]
    assert "second" not in made


def test_tf32_is_refused_before_cuda_is_there(
    bundle: Path, photos: Path, on_a_fake_gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "")  # so that it is put back
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    at_first: list[str | None] = []

    def opened(binding: str) -> FakeCuda:
        at_first.append(os.environ.get("NVIDIA_TF32_OVERRIDE"))
        return on_a_fake_gpu.cuda

    monkeypatch.setattr(report, "open_cuda", opened)

    made = made_of(config(bundle, photos, engines=[]))

    assert at_first == ["0"]
    assert made["tf32_override"] == "0"


def test_the_tests_come_first_then_the_engines_then_http(
    bundle: Path, photos: Path, on_a_fake_gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def tests(batches: int) -> dict[str, object]:
        order.append(f"tests of {batches} batches")
        return {"passed": 1}

    def program(real: OnnxGpuProgram) -> Program:
        order.append("engine")
        return real

    def load(*given: object) -> Iterator[tuple[str, object]]:
        order.append(f"HTTP for {given[-1]:g} s")
        yield "closed_loop", {"throughput": 1.0}

    def libraries() -> dict[str, str]:
        order.append("libraries")
        return {}

    monkeypatch.setattr(suite, "run_tests", tests)
    monkeypatch.setattr(http, "measure", load)
    monkeypatch.setattr(environment, "loaded_libraries", libraries)
    on_a_fake_gpu.programs = {"onnx-cuda": program, "onnx-tensorrt": program}
    engines = ["onnx-cuda", "onnx-tensorrt"]

    report.make(
        config(bundle, photos, engines=engines, tests=True, over_http=True), lambda so_far: None
    )

    assert order == [
        "tests of 20 batches",
        "engine",
        "engine",
        "HTTP for 0.5 s",
        "HTTP for 0.5 s",
        "libraries",
    ]


def test_a_quick_report_shortens_the_tests_and_http_too(bundle: Path, photos: Path) -> None:
    usual = config(bundle, photos, budget=MeasurementBudget())

    budget = quick(usual).budget

    assert budget.plateau * 10 == usual.budget.plateau
    assert budget.plateau_s * 10 == usual.budget.plateau_s
    assert budget.http_s * 10 == usual.budget.http_s


@pytest.mark.usefixtures("on_a_fake_gpu")
def test_a_missing_bundle_and_tests_that_do_not_run_are_reported(
    bundle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tests(batches: int) -> dict[str, object]:
        raise RuntimeError("pytest ended with 4")

    monkeypatch.setattr(suite, "run_tests", tests)
    there_and_not = [tmp_path / "nowhere", bundle]

    made = made_of(config(bundle, photos, bundles=there_and_not, engines=["onnx-cuda"], tests=True))

    assert [measured["bundle"] for measured in made["engines"]] == ["tiny"]
    tests_failed, bundle_failed = made["not_run"]
    assert tests_failed == "the GPU tests: RuntimeError: pytest ended with 4"
    assert bundle_failed.startswith(f"bundle {tmp_path / 'nowhere'}: BundleRefused: ")


def test_without_a_gpu_the_command_stops_and_writes_nothing(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(report, "open_cuda", lambda binding: FakeCuda(devices=0))
    out = tmp_path / "report.json"

    assert main(["gpu-report", "--photos", str(photos), "--out", str(out)]) == 1

    assert "There is no GPU to use" in capsys.readouterr().err
    assert not out.exists()


def test_without_photographs_the_command_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gpu-report", "--photos", str(tmp_path)]) == 1
    assert "No JPEG file" in capsys.readouterr().err


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    out = tmp_path / "results" / "gpu.json"

    report.write(out, {"a": 1})
    report.write(out, {"a": 2})

    assert json.loads(out.read_text()) == {"a": 2}
    assert [path.name for path in out.parent.iterdir()] == ["gpu.json"]


def test_the_environment_names_the_commit_and_the_packages_that_do_the_work() -> None:
    known = environment.before(["gpu-report"])

    assert known["command"] == "gpu-report"
    assert "numpy" in known["packages"]  # type: ignore[operator]
    assert known["cores"]


def test_without_git_nobody_knows_whether_the_code_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_ROOT", tmp_path)  # an archive without .git
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    known = environment.before(["gpu-report"])

    assert (known["commit"], known["dirty"]) == (None, None)


def test_the_environment_does_without_what_is_broken_or_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "~vidia_cudnn-9.dist-info").mkdir()  # as an interrupted installation leaves it
    monkeypatch.syspath_prepend(tmp_path)
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(environment, "_ASK_S", 0.2)

    known = environment.before(["gpu-report"])

    assert known["nvidia_smi"] is None
    assert "numpy" in known["packages"]  # type: ignore[operator]


def test_only_libraries_of_cuda_and_the_runtimes_are_named(tmp_path: Path) -> None:
    ours, other = tmp_path / "libcudart.so.13", tmp_path / "libz.so.1"
    for file in (ours, other):
        file.write_bytes(b"x")
    maps = tmp_path / "maps"
    maps.write_text("".join(f"7f00-7f01 r-xp 0 00:00 1    {file}\n" for file in (ours, other)))

    assert list(environment.loaded_libraries(maps)) == ["libcudart.so.13"]
