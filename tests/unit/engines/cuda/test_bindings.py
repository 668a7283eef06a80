"""The CUDA interface on the real cuda-bindings, as far as possible without a GPU, and on a fake."""

from __future__ import annotations

import ctypes
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tidegate.service.engines import cuda
from tidegate.service.engines.cuda.base import Address
from tidegate.service.engines.cuda.open import open_cuda
from tidegate.service.engines.faults import CudaError, Fault, fault_of
from tidegate.service.errors import EngineUnavailable

cudart = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is for x86-64 Linux")
SOURCE = Path(cuda.__file__).with_name("bindings.py").read_text()


def gpus() -> int:
    return int(cudart.cudaGetDeviceCount()[1] or 0)


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
def test_without_a_gpu_the_real_binding_raises_a_clear_error() -> None:
    with pytest.raises(EngineUnavailable, match=r"no GPU to use: cudaGetDeviceCount: CUDA error"):
        open_cuda("cuda-bindings").device_count()


def test_the_real_package_has_every_function_and_constant_that_is_used() -> None:
    functions = set(re.findall(r'"(cuda[A-Z]\w+)"', SOURCE))
    constants = set(re.findall(r"cudart\.(cuda[\w.]+)", SOURCE))

    assert len(functions) > 20
    for name in functions | constants:
        found = cudart
        for part in name.split("."):
            found = getattr(found, part)


class FakeRuntime(ModuleType):
    """The part of cuda.bindings.runtime that is used. `calls` records the calls.

    Its constants and error texts are those of the real package.
    """

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.failing: dict[str, int] = {}
        self._host: list[Any] = []
        self._handles = iter(range(1000, 2000))

    def __getattr__(self, name: str) -> Any:
        if not re.match(r"cuda[A-Z]", name) or not callable(getattr(cudart, name)):
            return getattr(cudart, name)
        if isinstance(getattr(cudart, name), type) or name == "cudaGetErrorString":
            return getattr(cudart, name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, arguments))
            if not gpus():
                getattr(cudart, name)(*arguments)  # the real one rejects wrong types
            if code := self.failing.get(name):
                return (cudart.cudaError_t(code), None)
            return (cudart.cudaError_t.cudaSuccess, *self._results(name, arguments))

        return call

    def _results(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if name == "cudaHostAlloc":
            self._host.append((ctypes.c_uint8 * arguments[0])())
            return (ctypes.addressof(self._host[-1]),)
        if name == "cudaGetDeviceProperties":
            return (SimpleNamespace(name=b"Fake GPU", major=9, minor=0),)
        known: dict[str, tuple[Any, ...]] = {
            "cudaGetDeviceCount": (2,),
            "cudaMemGetInfo": (3, 7),
            "cudaEventElapsedTime": (1500.0,),
            "cudaRuntimeGetVersion": (13000,),
            "cudaDriverGetVersion": (13020,),
        }
        makes = re.search(r"Create|cudaMalloc|EndCapture|Instantiate", name)
        return known.get(name, (next(self._handles),) if makes else ())


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    fake = FakeRuntime()
    monkeypatch.setattr("cuda.bindings.runtime", fake)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    module = importlib.import_module("tidegate.service.engines.cuda.bindings")
    monkeypatch.setattr(module, "cudart", fake)
    return fake


def asked(runtime: FakeRuntime) -> list[str]:
    return [name for name, _ in runtime.calls]


def test_versions_are_formatted_with_dots(runtime: FakeRuntime) -> None:
    cuda = open_cuda("cuda-bindings")

    assert cuda.version == "13.0 (driver 13.2)"
    assert re.fullmatch(r"cuda-bindings \d+\.\d+\.\d+", cuda.name)
    assert cuda.device_count() == 2


def test_a_thread_can_return_to_its_first_device(
    runtime: FakeRuntime,
) -> None:
    cuda = open_cuda("cuda-bindings")
    first, second = cuda.device(0), cuda.device(1)
    before = len(runtime.calls)

    first.use()
    second.use()
    first.use()

    assert (first.name, first.compute_capability) == ("Fake GPU", (9, 0))
    chosen = [arguments for name, arguments in runtime.calls[before:] if name == "cudaSetDevice"]
    assert chosen == [(0,), (1,), (0,)]


def test_copies_are_between_pinned_and_device_memory_on_the_stream(runtime: FakeRuntime) -> None:
    device = open_cuda("cuda-bindings").device(0)
    host, address, stream = device.pinned(16), device.allocate(16), device.stream()
    host[:] = np.arange(16)

    device.copy_in(address, host[4:8], stream)
    device.copy_out(host[:8], Address(address + 8), stream)

    kinds = cudart.cudaMemcpyKind
    start = host.ctypes.data
    assert [arguments for name, arguments in runtime.calls if name == "cudaMemcpyAsync"] == [
        (address, start + 4, 4, kinds.cudaMemcpyHostToDevice, stream),
        (start, address + 8, 8, kinds.cudaMemcpyDeviceToHost, stream),
    ]


def test_streams_are_non_blocking_and_waiting_threads_sleep(
    runtime: FakeRuntime,
) -> None:
    device = open_cuda("cuda-bindings").device(0)

    device.stream()
    event = device.event()

    assert ("cudaStreamCreateWithFlags", (cudart.cudaStreamNonBlocking,)) in runtime.calls
    assert ("cudaEventCreateWithFlags", (cudart.cudaEventBlockingSync,)) in runtime.calls
    assert device.elapsed_s(event, event) == 1.5
    assert device.memory() == (3, 7)


def test_a_capture_is_thread_local_and_always_ended(
    runtime: FakeRuntime,
) -> None:
    device = open_cuda("cuda-bindings").device(0)
    stream = device.stream()

    device.launch(device.capture(stream, lambda: None), stream)
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    assert ("cudaStreamBeginCapture", (stream, mode)) in runtime.calls
    assert asked(runtime)[-5:] == [
        "cudaStreamBeginCapture",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaGraphDestroy",
        "cudaGraphLaunch",
    ]

    def broken() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        device.capture(stream, broken)
    assert asked(runtime)[-2:] == ["cudaStreamEndCapture", "cudaGraphDestroy"]


def test_a_capture_that_fails_half_way_raises_the_first_error(runtime: FakeRuntime) -> None:
    """CUDA then ends the capture with an error of its own, 901."""
    device = open_cuda("cuda-bindings").device(0)
    stream = device.stream()
    runtime.failing["cudaStreamEndCapture"] = 901

    def broken() -> None:
        raise CudaError("cudaMalloc", 900, "operation not permitted when stream is capturing")

    with pytest.raises(CudaError, match="cudaMalloc"):
        device.capture(stream, broken)


def test_a_discarded_graph_is_freed_at_once_and_only_once(runtime: FakeRuntime) -> None:
    device = open_cuda("cuda-bindings").device(0)
    graph = device.capture(device.stream(), lambda: None)

    device.discard(graph)
    device.close()

    assert runtime.calls.count(("cudaGraphExecDestroy", (graph,))) == 1


def test_waiting_threads_spin_if_the_operator_prefers_that(runtime: FakeRuntime) -> None:
    open_cuda("cuda-bindings", spin=True).device(0).event()

    assert ("cudaEventCreateWithFlags", (cudart.cudaEventDefault,)) in runtime.calls


@pytest.mark.parametrize(
    ("call", "code", "fault"),
    [("cudaMalloc", 2, Fault.MEMORY), ("cudaMemGetInfo", 700, Fault.LOST)],
)
def test_a_failed_call_is_reported_with_its_code_and_text(
    runtime: FakeRuntime, call: str, code: int, fault: Fault
) -> None:
    device = open_cuda("cuda-bindings").device(0)
    runtime.failing[call] = code

    with pytest.raises(CudaError, match=rf"{call}: CUDA error {code}, ") as caught:
        device.allocate(1) if call == "cudaMalloc" else device.memory()
    assert fault_of(caught.value) is fault


def test_closing_frees_everything(runtime: FakeRuntime) -> None:
    device = open_cuda("cuda-bindings").device(0)
    device.pinned(4), device.allocate(4), device.stream(), device.event()
    before = len(runtime.calls)

    device.close()
    device.close()

    assert [call for call in asked(runtime)[before:] if call != "cudaSetDevice"] == [
        "cudaEventDestroy",
        "cudaStreamDestroy",
        "cudaFree",
        "cudaFreeHost",
    ]
