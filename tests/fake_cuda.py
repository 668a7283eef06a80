"""A fake of CUDA: one GPU in host memory that runs all work as late as possible.

A stream only queues its work, and runs it when a caller waits for it. Code that reads a result
before waiting, or overwrites a buffer that a copy still needs, therefore gets wrong numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tidegate.service.engines.cuda.base import Address, Bytes, StreamHandle
from tidegate.service.engines.faults import CudaError
from tidegate.service.errors import EngineUnavailable

_current = threading.local()  # as in CUDA, each thread has one current device
_PATIENCE_S = 150.0  # longer than any test
_TICK_S = 0.001  # between two events, on the fake's clock


@dataclass(eq=False)
class FakeEvent:
    """The time of the event, once it has occurred."""

    happened: int | None = None
    stream: StreamHandle | None = None


@dataclass
class FakeCuda:
    """A binding with `devices` identical devices."""

    devices: int = 1
    memory: int = 1 << 30
    made: list[FakeDevice] = field(default_factory=list)

    name: str = "fake-cuda 1"
    version: str = "0.0 (driver 0.0)"
    major: int = 0

    def device_count(self) -> int:
        if not self.devices:
            raise EngineUnavailable("There is no GPU to use: none is faked.")
        return self.devices

    def device(self, index: int) -> FakeDevice:
        self.made.append(FakeDevice(index, self.memory))
        return self.made[-1]


class FakeDevice:
    """One GPU. `calls` records the calls in order."""

    can_capture = True
    compute_capability = (9, 0)

    def __init__(self, index: int = 0, memory: int = 1 << 30) -> None:
        self.index = index
        self.name = "Fake GPU"
        self.calls: list[str] = []
        self.lost = False
        self.closed = False
        self._size = memory
        self._used = 0
        self._blocks: dict[int, np.ndarray[Any, Any]] = {}
        self._streams: dict[StreamHandle, list[Callable[[], None]]] = {}
        self._capturing: dict[int, list[Callable[[], None]]] = {}
        self._clock = 0
        self._lock = threading.Condition(threading.RLock())

    def use(self) -> None:
        _current.index = self.index

    def memory(self) -> tuple[int, int]:
        self._check("memory")
        return self._size - self._used, self._size

    def allocate(self, size: int) -> Address:
        self._check("allocate")
        if self._used + size > self._size:
            raise CudaError("cudaMalloc", 2, "out of memory")
        self._used += size
        block = np.full(size, 0xA5, np.uint8)  # new memory has arbitrary content
        self._blocks[block.ctypes.data] = block
        return Address(block.ctypes.data)

    def pinned(self, size: int) -> Bytes:
        self._check("pinned")
        return np.full(size, 0x5A, np.uint8)

    def stream(self) -> StreamHandle:
        self._check("stream")
        handle = StreamHandle(len(self._streams) + 1)
        self._streams[handle] = []
        return handle

    def event(self) -> FakeEvent:
        self._check("event")
        return FakeEvent()

    def copy_in(self, to: Address, source: Bytes, stream: StreamHandle) -> None:
        self._put("copy_in", stream, lambda: self._at(to, source.nbytes).__setitem__(..., source))

    def copy_out(self, to: Bytes, source: Address, stream: StreamHandle) -> None:
        self._put("copy_out", stream, lambda: to.__setitem__(..., self._at(source, to.nbytes)))

    def record(self, event: FakeEvent, stream: StreamHandle) -> None:
        event.stream, event.happened = stream, None
        self._put("record", stream, lambda: self._happen(event))

    def wait(self, event: FakeEvent) -> None:
        self._check("wait")
        if event.stream is not None:
            self._work_off(event.stream, lambda: event.happened is not None)

    def elapsed_s(self, start: FakeEvent, end: FakeEvent) -> float:
        self._check("elapsed")
        if start.happened is None or end.happened is None:
            raise CudaError("cudaEventElapsedTime", 600, "device not ready")
        return (end.happened - start.happened) * _TICK_S

    def synchronize(self, stream: StreamHandle) -> None:
        self._check("synchronize")
        self._work_off(stream, lambda: False)

    def capture(self, stream: StreamHandle, enqueue: Callable[[], None]) -> Any:
        self._check("capture")
        graph: list[Callable[[], None]] = []
        self._capturing[threading.get_ident()] = graph
        try:
            enqueue()
        finally:
            del self._capturing[threading.get_ident()]
        return graph

    def launch(self, graph: Any, stream: StreamHandle) -> None:
        def replay() -> None:
            for step in graph:
                step()

        self._put("launch", stream, replay)

    def discard(self, graph: Any) -> None:
        self._check("discard")
        graph.clear()

    def close(self) -> None:
        self.closed = True
        self._blocks.clear()

    def wait_for(self, call: str) -> None:
        """Block until the device has received this call."""
        with self._lock:
            if not self._lock.wait_for(lambda: call in self.calls, _PATIENCE_S):
                raise TimeoutError(f"{call} was never called")

    def enqueue(self, call: str, stream: StreamHandle, kernel: Callable[[], None]) -> None:
        """Enqueue a program's computation on a stream, as a runtime does."""
        self._put(call, stream, kernel)

    def _put(self, call: str, stream: StreamHandle, step: Callable[[], None]) -> None:
        self._check(f"{call}@{stream}")
        graph = self._capturing.get(threading.get_ident())
        (self._streams[stream] if graph is None else graph).append(step)

    def _work_off(self, stream: StreamHandle, until: Callable[[], bool]) -> None:
        queue = self._streams[stream]
        while queue and not until():
            queue.pop(0)()
        if self.lost:
            raise CudaError("cudaEventSynchronize", 700, "an illegal memory access was encountered")

    def _happen(self, event: FakeEvent) -> None:
        with self._lock:
            self._clock += 1
            event.happened = self._clock

    def _check(self, call: str) -> None:
        with self._lock:
            self.calls.append(call)
            self._lock.notify_all()
        if getattr(_current, "index", None) != self.index:
            raise CudaError(call, 201, "this thread is on another device, or none")
        if self.closed:
            raise CudaError(call, 709, "context is destroyed")

    def _at(self, address: int, size: int) -> np.ndarray[Any, Any]:
        """Return the bytes at an address. Raises if they are not within one block."""
        for start, block in self._blocks.items():
            if start <= address and address + size <= start + block.nbytes:
                return block[address - start : address - start + size]
        raise CudaError("copy", 700, "an illegal memory access was encountered")
