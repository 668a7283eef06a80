"""CUDA through PyCUDA: the driver API on the primary context. It has no CUDA graphs."""

from __future__ import annotations

import atexit
import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import pycuda.driver as driver

from tidegate.service.engines.cuda.base import Address, Bytes, StreamHandle
from tidegate.service.engines.faults import CudaError
from tidegate.service.errors import EngineUnavailable

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which PyCUDA does not export

_threads = threading.local()  # .pushed: the only PyCUDA context on this thread's stack


class PyCuda:
    """The alternative binding."""

    def __init__(self, *, spin: bool = False) -> None:
        self._spin = spin

    @property
    def name(self) -> str:
        return f"pycuda {version('pycuda')}"

    @property
    def version(self) -> str:
        major, minor, _ = driver.get_version()  # of the headers it was built with
        number = driver.get_driver_version()
        return f"{major}.{minor} (driver {number // 1000}.{number % 1000 // 10})"

    @property
    def major(self) -> int:
        return int(driver.get_version()[0])

    def device_count(self) -> int:
        try:
            with _cuda_errors():
                driver.init()
                return int(driver.Device.count())
        except CudaError as error:
            raise EngineUnavailable(f"There is no GPU to use: {error}.") from error

    def device(self, index: int) -> PyCudaDevice:
        return PyCudaDevice(index, spin=self._spin)


class PyCudaDevice:
    """One GPU."""

    can_capture = False

    def __init__(self, index: int, *, spin: bool = False) -> None:
        self.index = index
        flags = driver.event_flags
        self._event_flags = flags.DEFAULT if spin else flags.BLOCKING_SYNC
        # PyCUDA frees a resource with its Python object, while its context must be current.
        self._kept: list[Any] = []
        self._streams: dict[int, Any] = {}
        with _cuda_errors():
            device = driver.Device(index)
            self.name: str = device.name()
            self.compute_capability: tuple[int, int] = device.compute_capability()
            # Not pycuda.autoinit: its separate context could not access the runtimes' memory.
            self._context = device.retain_primary_context()
        self.use()

    def use(self) -> None:
        pushed = getattr(_threads, "pushed", None)
        if pushed is None or pushed.context is not self._context:
            del pushed
            _leave()
            with _cuda_errors():
                _threads.pushed = _Pushed(self._context)

    def memory(self) -> tuple[int, int]:
        with _cuda_errors():
            free, total = driver.mem_get_info()
        return int(free), int(total)

    def allocate(self, size: int) -> Address:
        with _cuda_errors():
            allocation = driver.mem_alloc(size)
        self._kept.append(allocation)
        return Address(int(allocation))

    def pinned(self, size: int) -> Bytes:
        with _cuda_errors():
            array: Bytes = driver.pagelocked_empty(size, np.uint8)
        self._kept.append(array)
        return array

    def stream(self) -> StreamHandle:
        with _cuda_errors():
            stream = driver.Stream(_NON_BLOCKING)
        self._streams[stream.handle] = stream
        return StreamHandle(stream.handle)

    def event(self) -> Any:
        with _cuda_errors():
            event = driver.Event(self._event_flags)
        self._kept.append(event)
        return event

    def copy_in(self, to: Address, source: Bytes, stream: StreamHandle) -> None:
        with _cuda_errors():
            driver.memcpy_htod_async(to, source, self._streams[stream])

    def copy_out(self, to: Bytes, source: Address, stream: StreamHandle) -> None:
        with _cuda_errors():
            driver.memcpy_dtoh_async(to, source, self._streams[stream])

    def record(self, event: Any, stream: StreamHandle) -> None:
        with _cuda_errors():
            event.record(self._streams[stream])

    def wait(self, event: Any) -> None:
        with _cuda_errors():
            event.synchronize()

    def elapsed_s(self, start: Any, end: Any) -> float:
        with _cuda_errors():
            return float(start.time_till(end)) / 1000

    def synchronize(self, stream: StreamHandle) -> None:
        with _cuda_errors():
            self._streams[stream].synchronize()

    def capture(self, stream: StreamHandle, enqueue: Callable[[], None]) -> Any:
        raise NotImplementedError("PyCUDA has no graphs")

    def launch(self, graph: Any, stream: StreamHandle) -> None:
        raise NotImplementedError("PyCUDA has no graphs")

    def discard(self, graph: Any) -> None:
        raise NotImplementedError("PyCUDA has no graphs")

    def close(self) -> None:
        self.use()
        self._streams.clear()
        self._kept.clear()
        with _cuda_errors():
            self._context.detach()  # while current: releases the primary context and pops it
        _leave()


class _Pushed:
    """A context that is current in the thread that created this object, until the thread ends.

    PyCUDA aborts the process if a thread ends while a context is on its stack.
    """

    def __init__(self, context: Any) -> None:
        context.push()
        self.context = context

    def __del__(self) -> None:
        with suppress(driver.Error):  # already closed
            driver.Context.pop()


@atexit.register
def _leave() -> None:
    """Pop PyCUDA's context from this thread."""
    _threads.pushed = None


@contextmanager
def _cuda_errors() -> Iterator[None]:
    """Raise PyCUDA's errors, "<call> failed: <the driver's text>", as CudaError."""
    try:
        yield
    except driver.Error as error:
        call, _, text = str(error).partition(" failed: ")
        raise CudaError(call, _codes().get(text, 1), text) from error


@cache
def _codes() -> dict[str, int]:
    """Return the driver's error codes by text, because PyCUDA's errors carry no code."""
    library, text = ctypes.CDLL("libcuda.so.1"), ctypes.c_char_p()
    codes: dict[str, int] = {}
    for code in range(1, 1000):
        if library.cuGetErrorString(code, ctypes.byref(text)) == 0 and text.value:
            codes.setdefault(text.value.decode(), code)
    return codes
