"""CUDA by PyCUDA: the driver API on the primary context, which other runtimes share. No graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
import pycuda.driver as driver

from service.engines.cuda.base import Address, Bytes, StreamHandle
from service.engines.faults import CudaError
from service.errors import EngineUnavailable

# PyCUDA's errors have a class and a text, no code.
_threads = threading.local()  # whose context is on top of each thread's stack
_CODES = {"MemoryError": 2, "LaunchError": 719}


class PyCuda:
    """The seam's other binding."""

    @property
    def name(self) -> str:
        return f"pycuda {version('pycuda')}"

    @property
    def version(self) -> str:
        compiled = ".".join(str(part) for part in driver.get_version())
        number = driver.get_driver_version()
        return f"{compiled} (driver {number // 1000}.{number % 1000 // 10})"

    def device_count(self) -> int:
        try:
            driver.init()
            return int(driver.Device.count())
        except driver.Error as error:
            raise EngineUnavailable(f"There is no GPU to use: {error}.") from error

    def device(self, index: int) -> PyCudaDevice:
        return PyCudaDevice(index)


class PyCudaDevice:
    """One GPU."""

    can_capture = False

    def __init__(self, index: int) -> None:
        self.index = index
        self._device = driver.Device(index)
        # Never pycuda.autoinit: a context of its own would not see the runtimes' memory.
        self._context = self._device.retain_primary_context()
        self._kept: list[Any] = []  # allocations live as long as their objects
        self._streams: dict[int, Any] = {}
        self.use()
        self.name: str = self._device.name()
        self.compute_capability: tuple[int, int] = self._device.compute_capability()

    def use(self) -> None:
        current: PyCudaDevice | None = getattr(_threads, "device", None)
        if current is not self:
            if current is not None:
                current._context.pop()
            self._context.push()
            _threads.device = self

    def memory(self) -> tuple[int, int]:
        with _told("cuMemGetInfo"):
            free, total = driver.mem_get_info()
        return int(free), int(total)

    def allocate(self, size: int) -> Address:
        with _told("cuMemAlloc"):
            allocation = driver.mem_alloc(size)
        self._kept.append(allocation)
        return Address(int(allocation))

    def pinned(self, size: int) -> Bytes:
        with _told("cuMemHostAlloc"):
            array: Bytes = driver.pagelocked_empty(size, np.uint8)
        self._kept.append(array)
        return array

    def stream(self) -> StreamHandle:
        with _told("cuStreamCreate"):
            # CU_STREAM_NON_BLOCKING, which PyCUDA has no name for.
            stream = driver.Stream(1)
        self._streams[stream.handle] = stream
        return StreamHandle(stream.handle)

    def event(self) -> Any:
        with _told("cuEventCreate"):
            return driver.Event(driver.event_flags.BLOCKING_SYNC)

    def copy_in(self, to: Address, source: Bytes, stream: StreamHandle) -> None:
        with _told("cuMemcpyHtoDAsync"):
            driver.memcpy_htod_async(to, source, self._streams[stream])

    def copy_out(self, to: Bytes, source: Address, stream: StreamHandle) -> None:
        with _told("cuMemcpyDtoHAsync"):
            driver.memcpy_dtoh_async(to, source, self._streams[stream])

    def record(self, event: Any, stream: StreamHandle) -> None:
        with _told("cuEventRecord"):
            event.record(self._streams[stream])

    def wait(self, event: Any) -> None:
        with _told("cuEventSynchronize"):
            event.synchronize()

    def elapsed_s(self, start: Any, end: Any) -> float:
        with _told("cuEventElapsedTime"):
            return float(start.time_till(end)) / 1000

    def synchronize(self, stream: StreamHandle) -> None:
        with _told("cuStreamSynchronize"):
            self._streams[stream].synchronize()

    def capture(self, stream: StreamHandle, enqueue: Callable[[], None]) -> Any:
        raise NotImplementedError("PyCUDA has no graphs")

    def launch(self, graph: Any, stream: StreamHandle) -> None:
        raise NotImplementedError("PyCUDA has no graphs")

    def close(self) -> None:
        self.use()
        self._streams.clear()
        self._kept.clear()


@contextmanager
def _told(call: str) -> Iterator[None]:
    """Turn PyCUDA's errors into the seam's."""
    try:
        yield
    except driver.Error as error:
        code = _CODES.get(type(error).__name__, 1)
        # A LogicError may as well be a device that is gone: then only its text says so.
        code = 700 if "illegal memory access" in str(error) else code
        raise CudaError(call, code, str(error)) from error
