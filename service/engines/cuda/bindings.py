"""CUDA through NVIDIA's cuda-bindings: the runtime API on the primary context."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from cuda.bindings import runtime as cudart

from tidegate.service.engines.cuda.base import Address, Bytes, StreamHandle
from tidegate.service.engines.faults import CudaError
from tidegate.service.errors import EngineUnavailable


class CudaBindings:
    """The default binding."""

    def __init__(self, *, spin: bool = False) -> None:
        self._spin = spin

    @property
    def name(self) -> str:
        return f"cuda-bindings {version('cuda-bindings')}"

    @property
    def version(self) -> str:
        runtime, driver = _call("cudaRuntimeGetVersion"), _call("cudaDriverGetVersion")
        return f"{_dotted(runtime)} (driver {_dotted(driver)})"

    @property
    def major(self) -> int:
        return int(_call("cudaRuntimeGetVersion")) // 1000

    def device_count(self) -> int:
        try:
            return int(_call("cudaGetDeviceCount"))
        except CudaError as error:
            raise EngineUnavailable(f"There is no GPU to use: {error}.") from error

    def device(self, index: int) -> BindingsDevice:
        return BindingsDevice(index, spin=self._spin)


class BindingsDevice:
    """One GPU."""

    can_capture = True

    def __init__(self, index: int, *, spin: bool = False) -> None:
        self.index = index
        self._event_flags = cudart.cudaEventDefault if spin else cudart.cudaEventBlockingSync
        self._addresses: list[int] = []
        self._pinned: list[int] = []
        self._streams: list[Any] = []
        self._events: list[Any] = []
        self._graphs: list[Any] = []
        self.use()
        properties = _call("cudaGetDeviceProperties", index)
        self.name: str = properties.name.decode()
        self.compute_capability = int(properties.major), int(properties.minor)

    def use(self) -> None:
        _call("cudaSetDevice", self.index)

    def memory(self) -> tuple[int, int]:
        free, total = _call("cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int) -> Address:
        address = int(_call("cudaMalloc", size))
        self._addresses.append(address)
        return Address(address)

    def pinned(self, size: int) -> Bytes:
        address = int(_call("cudaHostAlloc", size, cudart.cudaHostAllocDefault))
        self._pinned.append(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def stream(self) -> StreamHandle:
        stream = _call("cudaStreamCreateWithFlags", cudart.cudaStreamNonBlocking)
        self._streams.append(stream)
        return StreamHandle(int(stream))

    def event(self) -> Any:
        event = _call("cudaEventCreateWithFlags", self._event_flags)
        self._events.append(event)
        return event

    def copy_in(self, to: Address, source: Bytes, stream: StreamHandle) -> None:
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        _call("cudaMemcpyAsync", to, source.ctypes.data, source.nbytes, kind, stream)

    def copy_out(self, to: Bytes, source: Address, stream: StreamHandle) -> None:
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call("cudaMemcpyAsync", to.ctypes.data, source, to.nbytes, kind, stream)

    def record(self, event: Any, stream: StreamHandle) -> None:
        _call("cudaEventRecord", event, stream)

    def wait(self, event: Any) -> None:
        _call("cudaEventSynchronize", event)

    def elapsed_s(self, start: Any, end: Any) -> float:
        return float(_call("cudaEventElapsedTime", start, end)) / 1000

    def synchronize(self, stream: StreamHandle) -> None:
        _call("cudaStreamSynchronize", stream)

    def capture(self, stream: StreamHandle, enqueue: Callable[[], None]) -> Any:
        # Thread-local: the other slots' threads call CUDA during the capture.
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("cudaStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except BaseException:
            # The end of a capture that failed is an error of its own, which says less.
            with contextlib.suppress(CudaError):
                _call("cudaGraphDestroy", _call("cudaStreamEndCapture", stream))
            raise
        graph = _call("cudaStreamEndCapture", stream)
        try:
            executable = _call("cudaGraphInstantiate", graph, 0)
        finally:
            _call("cudaGraphDestroy", graph)
        self._graphs.append(executable)
        return executable

    def launch(self, graph: Any, stream: StreamHandle) -> None:
        _call("cudaGraphLaunch", graph, stream)

    def discard(self, graph: Any) -> None:
        self._graphs.remove(graph)
        _call("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        self.use()
        for free, handles in (
            ("cudaGraphExecDestroy", self._graphs),
            ("cudaEventDestroy", self._events),
            ("cudaStreamDestroy", self._streams),
            ("cudaFree", self._addresses),
            ("cudaFreeHost", self._pinned),
        ):
            while handles:
                _call(free, handles.pop())


def _call(call: str, *arguments: Any) -> Any:
    """Call the runtime; return its single result, a tuple of several, or None."""
    code, *results = getattr(cudart, call)(*arguments)
    if int(code):
        text = cudart.cudaGetErrorString(code)[1]
        raise CudaError(call, int(code), text.decode() if text else "no driver, or one too old")
    return results[0] if len(results) == 1 else tuple(results) or None


def _dotted(version_number: int) -> str:
    return f"{version_number // 1000}.{version_number % 1000 // 10}"
