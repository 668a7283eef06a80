"""The calls to TensorRT and their order, on a fake of its module."""

from __future__ import annotations

import hashlib
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.fake_cuda import FakeCuda, FakeDevice
from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service.cli import main
from tidegate.service.engines import open_gpu
from tidegate.service.engines.cuda.base import Address, StreamHandle
from tidegate.service.engines.faults import OutOfDeviceMemory
from tidegate.service.engines.tensorrt.build import profiles_of
from tidegate.service.engines.tensorrt.plan_cache import PlanCache, PlanKey
from tidegate.service.engines.tensorrt.program import (
    EngineError,
    ensure_plan,
    open_program,
    open_toolkit,
    plan_key,
)
from tidegate.service.errors import EngineUnavailable

SHAPES = {
    "pixels": (-1, 4, 4, 3),
    "logits": (-1, 5),
    "features": (-1, 3),
    "scores": (-1, 2),
    "nearest_class": (-1,),
}
ADDRESSES = {name: Address(index) for index, name in enumerate(SHAPES) if name != "pixels"}


@dataclass
class FakeContext:
    """An execution context that records its calls, and fails the call named `failing`."""

    calls: list[tuple[str, Any]] = field(default_factory=list)
    failing: str = ""
    memory: tuple[int, int] | None = None  # address, size
    profile: tuple[int, int] | None = None  # index, stream

    def _take(self, call: str, value: Any) -> bool:
        self.calls.append((call, value))
        return call != self.failing

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return self._take("shape", (name, shape))

    def set_tensor_address(self, name: str, address: int) -> bool:
        return self._take("address", (name, address))

    def execute_async_v3(self, stream: int) -> bool:
        return self._take("execute", stream)

    def set_device_memory(self, memory: int, size: int) -> None:
        self.memory = memory, size

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile, stream
        return self.failing != "profile"


class FakeEnginePlan:
    """A deserialised plan."""

    device_memory_size_v2 = 12345
    num_io_tensors = len(SHAPES)

    def __init__(self) -> None:
        self.contexts: list[FakeContext] = []
        self.fits = True
        self.settings: Any = None
        self.profiles = [(1, 1, 4), (5, 8, 8)]

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(images, *SHAPES[name][1:]) for images in self.profiles[profile]]

    def get_tensor_name(self, index: int) -> str:
        return [*SHAPES][index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return SHAPES[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return {"nearest_class": np.int64, "pixels": np.uint8}.get(name, np.float32)

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "pixels" else "out"

    def create_runtime_config(self) -> SimpleNamespace:
        made = SimpleNamespace()
        made.set_execution_context_allocation_strategy = partial(setattr, made, "allocation")
        return made

    def create_execution_context(self, settings: Any) -> FakeContext | None:
        self.settings = settings
        if not self.fits:
            return None
        self.contexts.append(FakeContext())
        return self.contexts[-1]


def report_progress(monitor: Any) -> None:
    """Report a build of two steps, the second of which has nested phases."""
    monitor.phase_start("Building Engine", None, 2)
    monitor.phase_start("Tactic", "Building Engine", 9)
    assert monitor.step_complete("Tactic", 0)
    assert monitor.step_complete("Building Engine", 0)
    monitor.phase_finish("Building Engine")


class FakeConfig(SimpleNamespace):
    """A build's configuration; it keeps the attributes that are set."""

    def __init__(self, asked: dict[str, Any]) -> None:
        super().__init__()
        self._asked = asked

    def clear_flag(self, flag: str) -> None:
        self._asked["cleared"] = flag

    def add_optimization_profile(self, given: Any) -> None:
        self._asked["profiles"] = self._asked.get("profiles", 0) + 1

    def create_timing_cache(self, content: bytes) -> Any:
        self._asked["timing"] = content
        if content == b"damaged":
            return None
        return SimpleNamespace(serialize=lambda: content + b"+", fits=content != b"foreign")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return bool(cache.fits)


class FakeTensorRt(ModuleType):
    """The part of module tensorrt that is used. It accepts only plans that begin with `good`."""

    __version__ = "10.16.1.11"
    TensorIOMode = SimpleNamespace(OUTPUT="out")
    BuilderFlag = SimpleNamespace(TF32="tf32")
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY="lazy", EAGER="eager")

    class ILogger:
        ERROR, WARNING, INFO = 1, 2, 3

    class IProgressMonitor:
        pass

    def __init__(self, *, builds: bytes | None = b"good plan", parses: bool = True) -> None:
        super().__init__("tensorrt")
        self.asked: dict[str, Any] = {}
        self.builds, self.parses = builds, parses
        self.engine = FakeEnginePlan()

    @staticmethod
    def nptype(dtype: Any) -> Any:
        return dtype

    def Runtime(self, logger: Any) -> Any:
        def deserialize(plan: bytes) -> FakeEnginePlan | None:
            if plan.startswith(b"good"):
                return self.engine
            logger.log(1, "the plan is of another version")
            return None

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    def Builder(self, logger: Any) -> Any:
        asked = self.asked
        asked["shapes"] = []
        profile = SimpleNamespace(set_shape=lambda name, *s: asked["shapes"].append((name, *s)))
        config = FakeConfig(asked)

        def build(network: Any, config: Any) -> bytes | None:
            if monitor := getattr(config, "progress_monitor", None):
                report_progress(monitor)
            asked["config"] = config
            if self.builds is None:
                logger.log(1, "no kernel for Conv_3")
            return self.builds

        def create_network(flags: int) -> Any:
            asked["network"] = flags
            pixels = SimpleNamespace(name="pixels", shape=SHAPES["pixels"])
            return SimpleNamespace(get_input=lambda index: pixels)

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=build,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        return SimpleNamespace(
            parse_from_file=lambda path: self.parses,
            num_errors=1,
            get_error=lambda index: "Unsupported operator: Wobble",
        )


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "plans")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"a sealed graph")
    return path


def with_tensorrt(
    monkeypatch: pytest.MonkeyPatch, model: Path, fake: FakeTensorRt
) -> tuple[Any, PlanKey]:
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    toolkit = open_toolkit("tensorrt")
    device = FakeDevice()
    return toolkit, plan_key(toolkit, FakeCuda(), device, model, (1, 2, 8), "fp16")


def test_the_key_contains_the_model_s_digest_the_versions_and_the_gpu(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = with_tensorrt(monkeypatch, model, FakeTensorRt())

    assert key.model_sha256 == hashlib.sha256(b"a sealed graph").hexdigest()
    assert (key.tensorrt, key.cuda) == ("TensorRT 10.16.1.11", "0")
    assert (key.gpu, key.compute_capability, key.precision) == ("Fake GPU", "9.0", "fp16")
    assert key.buckets == (1, 2, 8)
    assert key.flags == ("no-tf32", "optimisation=3", "small-batches=4", "strongly-typed")


def test_a_plan_is_strongly_typed_without_tf32_for_one_to_the_largest_batch(
    cache: PlanCache, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt()
    toolkit, key = with_tensorrt(monkeypatch, model, fake)
    steps: list[tuple[str, int, int]] = []

    plan = ensure_plan(toolkit, cache, key, model, lambda *step: steps.append(step))

    assert plan == b"good plan"
    assert fake.asked["network"] == 1 << 1
    assert fake.asked["cleared"] == "tf32"
    assert fake.asked["profiles"] == 2
    assert fake.asked["shapes"] == [
        ("pixels", (1, 4, 4, 3), (1, 4, 4, 3), (4, 4, 4, 3)),
        ("pixels", (5, 4, 4, 3), (8, 4, 4, 3), (8, 4, 4, 3)),
    ]
    assert fake.asked["config"].max_aux_streams == 0
    assert fake.asked["config"].builder_optimization_level == 3
    assert steps == [
        ("Building Engine", 0, 2),
        ("Building Engine", 1, 2),
        ("Building Engine", 2, 2),
    ]
    assert cache.timing(key).read_bytes() == b"+"

    cache.drop(key)
    ensure_plan(toolkit, cache, key, model)
    assert fake.asked["timing"] == b"+"

    for unusable in (b"foreign", b"damaged"):  # an empty cache is used instead
        cache.drop(key)
        cache.keep_timing(key, unusable)
        ensure_plan(toolkit, cache, key, model)
        assert cache.timing(key).read_bytes() == b"+"


def test_tensorrt_without_the_flag_is_also_strongly_typed(
    cache: PlanCache, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt()
    fake.NetworkDefinitionCreationFlag = SimpleNamespace()
    toolkit, key = with_tensorrt(monkeypatch, model, fake)

    ensure_plan(toolkit, cache, key, model)

    assert fake.asked["network"] == 0


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (FakeTensorRt(parses=False), r"cannot read .*model\.onnx: Unsupported operator: Wobble"),
        (FakeTensorRt(builds=None), r"cannot build .*model\.onnx: no kernel for Conv_3"),
    ],
)
def test_a_failed_build_is_reported_with_tensorrt_s_errors(
    fake: FakeTensorRt,
    words: str,
    cache: PlanCache,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toolkit, key = with_tensorrt(monkeypatch, model, fake)

    with pytest.raises(EngineUnavailable, match=words):
        ensure_plan(toolkit, cache, key, model)
    assert cache.get(key) is None


def test_a_plan_that_the_runtime_rejects_is_rebuilt_once(
    cache: PlanCache,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    toolkit, key = with_tensorrt(monkeypatch, model, FakeTensorRt())
    cache.put(key, b"stale plan")

    with caplog.at_level(logging.WARNING):
        program = open_program(toolkit, cache, key, model)

    assert "the plan is of another version" in caplog.text
    assert cache.get(key) == b"good plan"
    assert program.input_size == (4, 4)


def test_a_plan_that_never_loads_is_rejected(
    cache: PlanCache, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolkit, key = with_tensorrt(monkeypatch, model, FakeTensorRt(builds=b"bad"))

    with pytest.raises(EngineUnavailable, match=r"cannot load the plan that it built: the plan is"):
        open_program(toolkit, cache, key, model)


def test_a_program_reports_its_outputs_and_an_execution_s_memory(
    cache: PlanCache, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolkit, key = with_tensorrt(monkeypatch, model, FakeTensorRt())

    program = open_program(toolkit, cache, key, model)

    assert program.execution_bytes == 12345
    assert set(program.outputs) == set(SHAPES) - {"pixels"}
    assert program.outputs["logits"].bytes_of(2) == 2 * 5 * 4
    assert program.outputs["nearest_class"].bytes_of(3) == 3 * 8


def test_an_execution_is_bound_once_for_a_batch_size(
    cache: PlanCache, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt()
    toolkit, key = with_tensorrt(monkeypatch, model, fake)
    execution = open_program(toolkit, cache, key, model).execution(FakeDevice(), Address(512))

    for batch in (2, 2, 3):
        execution.enqueue(batch, Address(99), ADDRESSES, StreamHandle(7))

    [context] = fake.engine.contexts
    calls = [call for call, _ in context.calls]
    bound = ["shape", *["address"] * 5]
    assert calls == [*bound, "execute", "execute", *bound, "execute"]
    assert context.calls[0] == ("shape", ("pixels", (2, 4, 4, 3)))
    assert ("address", ("pixels", 99)) in context.calls
    assert ("execute", 7) in context.calls


@pytest.mark.parametrize("call", ["shape", "address", "execute"])
def test_a_call_that_returns_false_raises_an_error(
    call: str, cache: PlanCache, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt()
    toolkit, key = with_tensorrt(monkeypatch, model, fake)
    execution = open_program(toolkit, cache, key, model).execution(FakeDevice(), Address(512))
    execution.enqueue(4, Address(99), ADDRESSES, StreamHandle(7))
    [context] = fake.engine.contexts
    context.failing = call

    with pytest.raises(EngineError, match="TensorRT rejected"):
        execution.enqueue(2, Address(99), ADDRESSES, StreamHandle(7))

    context.failing = ""
    context.calls.clear()
    # After a failed binding everything is bound again, also for the previous size.
    execution.enqueue(4 if call != "execute" else 2, Address(99), ADDRESSES, StreamHandle(7))
    bound_again = context.calls[0][0] == "shape"
    assert bound_again is (call != "execute")


def test_rtx_compiles_its_kernels_in_warm_up_and_is_not_captured(
    cache: PlanCache, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt()
    toolkit, key = with_tensorrt(monkeypatch, model, fake)
    tensorrt = open_program(toolkit, cache, key, model)
    tensorrt.context(0, Address(512), StreamHandle(7))
    assert (tensorrt.can_capture(FakeDevice()), fake.engine.settings) == (True, "user")

    rtx = open_program(replace(toolkit, engine="tensorrt-rtx"), cache, key, model)
    rtx.context(0, Address(512), StreamHandle(7))

    assert not rtx.can_capture(FakeDevice())
    assert fake.engine.settings.allocation == "user"
    assert fake.engine.settings.dynamic_shapes_kernel_specialization_strategy == "eager"


def test_contexts_of_both_profiles_compute_in_the_slot_s_memory(
    cache: PlanCache, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt()
    toolkit, key = with_tensorrt(monkeypatch, model, fake)
    execution = open_program(toolkit, cache, key, model).execution(FakeDevice(), Address(512))

    for batch in (1, 8, 4, 5):
        execution.enqueue(batch, Address(99), ADDRESSES, StreamHandle(7))

    small, large = fake.engine.contexts
    assert (small.profile, large.profile) == ((0, 7), (1, 7))
    assert small.memory == large.memory == (512, 12345)
    assert [value[1][0] for call, value in large.calls if call == "shape"] == [8, 5]


def test_a_plan_of_one_profile_keeps_it(
    cache: PlanCache, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt()
    toolkit, key = with_tensorrt(monkeypatch, model, fake)
    fake.engine.profiles = [(1, 4, 4)]
    execution = open_program(toolkit, cache, key, model).execution(FakeDevice(), Address(512))

    execution.enqueue(2, Address(99), ADDRESSES, StreamHandle(7))

    [context] = fake.engine.contexts
    assert context.profile is None


def test_slots_that_fail_together_have_their_own_reasons(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolkit, _ = with_tensorrt(monkeypatch, model, FakeTensorRt())
    logger, both = toolkit.logger, threading.Barrier(2, timeout=30)

    def fail(reason: str) -> str:
        both.wait()
        logger.log(1, reason)
        both.wait()
        return str(logger.recent_errors())

    with ThreadPoolExecutor(2) as pool:
        reasons = list(pool.map(fail, ["out of memory", "bad shape"]))

    assert reasons == ["out of memory", "bad shape"]
    assert logger.recent_errors() == "no reason given"


@pytest.mark.parametrize(
    ("buckets", "profiles"),
    [
        ((1,), [(1, 1, 1)]),
        ((1, 2, 4), [(1, 4, 4)]),
        ((1, 2, 4, 8), [(1, 1, 4), (5, 8, 8)]),
        ((8, 64), [(8, 64, 64)]),
    ],
)
def test_single_images_and_full_batches_have_a_profile_each(
    buckets: tuple[int, ...], profiles: list[tuple[int, int, int]]
) -> None:
    assert profiles_of(buckets) == profiles


def test_a_new_driver_or_binding_does_not_rebuild_a_plan(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolkit, _ = with_tensorrt(monkeypatch, model, FakeTensorRt())

    before, after = (
        plan_key(toolkit, FakeCuda(version=version, major=13), FakeDevice(), model, (1, 8), "fp32")
        for version in ("13.0 (driver 13.0)", "13.5 (driver 13.9)")
    )

    assert before.digest == after.digest


@pytest.mark.parametrize("part", ["Builder", "Runtime"])
def test_an_incompatible_cuda_is_rejected(
    part: str, cache: PlanCache, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt()
    toolkit, key = with_tensorrt(monkeypatch, model, fake)

    def null(logger: Any) -> Any:
        logger.log(1, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(fake, part, null)

    with pytest.raises(EngineUnavailable, match="failed to start: CUDA initialization fail"):
        open_program(toolkit, cache, key, model)


def test_a_missing_context_means_too_little_memory(
    cache: PlanCache, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt()
    toolkit, key = with_tensorrt(monkeypatch, model, fake)
    execution = open_program(toolkit, cache, key, model).execution(FakeDevice(), Address(512))
    fake.engine.fits = False

    with pytest.raises(OutOfDeviceMemory):
        execution.enqueue(1, Address(99), ADDRESSES, StreamHandle(7))


def test_the_command_builds_a_plan_for_every_gpu_and_prints_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRt())
    monkeypatch.setattr(open_gpu, "open_cuda", lambda binding, **options: FakeCuda(devices=2))
    monkeypatch.setenv("TIDEGATE_PLAN_CACHE", str(tmp_path / "plans"))
    monkeypatch.setenv("TIDEGATE_DEVICES", "0,1")
    bundle = put(tmp_path / "tiny" / "1", sound_files())

    assert main(["engine", "build", "--bundle", str(bundle), "--precision", "fp32"]) == 0

    printed = capsys.readouterr()
    plans = printed.out.split()
    # Both GPUs are identical, so they share a plan.
    assert len(plans) == 2
    assert plans[0] == plans[1]
    assert Path(plans[0]).read_bytes().endswith(b"good plan")
    assert printed.err == "Building Engine\n"


def test_the_command_rejects_a_bundle_in_another_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = put(tmp_path / "tiny" / "1", sound_files())

    assert main(["engine", "build", "--bundle", str(bundle), "--precision", "int8"]) == 1

    assert "has precision fp32" in capsys.readouterr().err


def test_the_command_rejects_an_engine_without_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEGATE_ENGINE", "onnx-cuda")
    bundle = put(tmp_path / "tiny" / "1", sound_files())

    assert main(["engine", "build", "--bundle", str(bundle)]) == 1

    assert "onnx-cuda has no plans to build; only tensorrt and tensorrt-rtx have" in (
        capsys.readouterr().err
    )
