"""The functions of `cuda.bindings.runtime` that the engines call, on the stand-in of libcudart.

Constants, types and error texts are those of the real package.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from cuda.bindings import runtime as real

from tests.gpu_packages.standins.build import LIBRARIES

_OUT = ctypes.c_void_p
# Calls that only have inputs; handles, addresses and sizes are passed as 64-bit integers.
_CALLS = {
    "cudaSetDevice", "cudaMemcpyAsync", "cudaEventRecord", "cudaEventSynchronize", "cudaFree",
    "cudaFreeHost", "cudaStreamSynchronize", "cudaStreamBeginCapture", "cudaGraphLaunch",
    "cudaGraphDestroy", "cudaGraphExecDestroy", "cudaEventDestroy", "cudaStreamDestroy",
}  # fmt: skip
# Calls whose first argument receives a handle, an address or a number.
_MAKERS = {
    "cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags",
    "cudaGraphInstantiate", "cudaGetDeviceCount", "cudaRuntimeGetVersion", "cudaDriverGetVersion",
}  # fmt: skip


class StandIn:
    """The loaded stand-ins: their counters, and how to make them fail."""

    def __init__(self, folder: Path) -> None:
        """Load the libraries in `folder` so that everything loaded later is linked to them."""
        loaded = {name: ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL) for name in LIBRARIES}
        self.cudart, self.cudnn = loaded["libcudart.so.13"], loaded["libcudnn.so.9"]
        self.cudart.standin_name.restype = ctypes.c_char_p
        self.cudart.standin_count.restype = self.cudnn.standin_descriptors.restype = ctypes.c_long

    def counts(self) -> Mapping[str, int]:
        """Return the counters by name."""
        return {
            self.cudart.standin_name(index).decode(): self.cudart.standin_count(index)
            for index in range(self.cudart.standin_counters())
        }

    def reset(self) -> None:
        """Set all counters to zero except the bytes that are allocated."""
        self.cudart.standin_reset()

    def descriptors(self) -> int:
        """Return how many cuDNN descriptors were made."""
        return int(self.cudnn.standin_descriptors())

    def limit(self, size: int) -> None:
        """Bound the device memory, in bytes."""
        self.cudart.standin_limit(ctypes.c_long(size))

    def delay(self, microseconds: int) -> None:
        """Let every kernel launch last this long, so that slots overlap."""
        self.cudart.standin_delay(microseconds)

    def fail(self, code: int) -> None:
        """Let kernel launches fail with CUDA's error `code`; 0 ends it."""
        error = real.cudaError_t(code)
        texts = [real.cudaGetErrorName(error)[1], real.cudaGetErrorString(error)[1]]
        self._texts = texts  # the library keeps pointers to them
        self.cudart.standin_fail(code, *map(ctypes.c_char_p, texts))


def install(standin: StandIn) -> None:
    """Let this process use the stand-ins instead of NVIDIA's libraries and the driver."""
    import cuda.bindings  # noqa: PLC0415 - after the stand-ins are loaded
    import onnxruntime  # noqa: PLC0415 - the same

    runtime = StandInRuntime(standin)
    sys.modules["cuda.bindings.runtime"] = cuda.bindings.runtime = runtime
    onnxruntime.preload_dlls = lambda: None  # it would load NVIDIA's


class StandInRuntime(ModuleType):
    """`cuda.bindings.runtime`, whose functions call a stand-in."""

    def __init__(self, standin: StandIn) -> None:
        super().__init__("cuda.bindings.runtime")
        self._cudart = standin.cudart

    def __getattr__(self, name: str) -> Any:
        if name in _CALLS:
            return lambda *given: (self._code(name, *map(_integer, given)),)
        if name in _MAKERS:
            return lambda *given: self._made(name, *map(_integer, given))
        return getattr(real, name)

    def cudaStreamEndCapture(self, stream: Any) -> tuple[Any, ...]:
        graph = _OUT()
        return self._code(
            "cudaStreamEndCapture", _integer(stream), ctypes.byref(graph)
        ), graph.value

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        code = self._code("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return code, free.value, total.value

    def cudaEventElapsedTime(self, start: Any, end: Any) -> tuple[Any, ...]:
        return real.cudaError_t.cudaSuccess, 1.0

    def cudaGetDeviceProperties(self, index: int) -> tuple[Any, ...]:
        return real.cudaError_t.cudaSuccess, SimpleNamespace(name=b"stand-in", major=9, minor=0)

    def _made(self, name: str, *given: Any) -> tuple[Any, ...]:
        made = _OUT()
        return self._code(name, ctypes.byref(made), *given), made.value or 0

    def _code(self, name: str, *given: Any) -> Any:
        return real.cudaError_t(getattr(self._cudart, name)(*given))


def _integer(value: Any) -> ctypes.c_uint64:
    return ctypes.c_uint64(int(value))
