"""The seam to CUDA: memory, streams, events, copies and graphs of one device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NewType, Protocol

import numpy as np
from numpy.typing import NDArray

Address = NewType("Address", int)  # in the device's memory
StreamHandle = NewType("StreamHandle", int)  # a cudaStream_t
Bytes = NDArray[np.uint8]  # [n]

BINDINGS = ("cuda-bindings", "pycuda")


class Device(Protocol):
    """One GPU. Every thread calls `use` before anything else.

    What fails raises CudaError. Handles stay valid until `close`, which frees everything.
    """

    @property
    def index(self) -> int:
        """Return its number among the devices this process sees."""
        ...

    @property
    def name(self) -> str:
        """Return the product's name."""
        ...

    @property
    def compute_capability(self) -> tuple[int, int]:
        """Return (major, minor)."""
        ...

    @property
    def can_capture(self) -> bool:
        """Tell whether `capture` works."""
        ...

    def use(self) -> None:
        """Have the calling thread's CUDA calls mean this device."""
        ...

    def memory(self) -> tuple[int, int]:
        """Return (free, total) bytes of device memory."""
        ...

    def allocate(self, size: int) -> Address:
        """Return `size` bytes of device memory."""
        ...

    def pinned(self, size: int) -> Bytes:
        """Return `size` bytes of host memory that copies can overlap with computing."""
        ...

    def stream(self) -> StreamHandle:
        """Return a stream that does not wait for the default one."""
        ...

    def event(self) -> Any:
        """Return an event that tells times, and whose waiting thread gives up its core."""
        ...

    def copy_in(self, to: Address, source: Bytes, stream: StreamHandle) -> None:
        """Copy pinned bytes to the device, in the stream's order; returns at once."""
        ...

    def copy_out(self, to: Bytes, source: Address, stream: StreamHandle) -> None:
        """Copy into pinned bytes, in the stream's order; returns at once."""
        ...

    def record(self, event: Any, stream: StreamHandle) -> None:
        """Have the event happen when the stream has done what it was given so far."""
        ...

    def wait(self, event: Any) -> None:
        """Block until the event has happened; raises what went wrong on the device before it."""
        ...

    def elapsed_s(self, start: Any, end: Any) -> float:
        """Return the seconds between two events that have happened."""
        ...

    def synchronize(self, stream: StreamHandle) -> None:
        """Block until the stream has done everything."""
        ...

    def capture(self, stream: StreamHandle, enqueue: Callable[[], None]) -> Any:
        """Return a graph of what `enqueue` puts on the stream, which does not run."""
        ...

    def launch(self, graph: Any, stream: StreamHandle) -> None:
        """Put a captured graph on the stream."""
        ...

    def close(self) -> None:
        """Free everything. Nothing may be running."""
        ...


class Cuda(Protocol):
    """One binding to CUDA."""

    @property
    def name(self) -> str:
        """Return which of BINDINGS it is, with its version."""
        ...

    @property
    def version(self) -> str:
        """Return the CUDA version of the runtime, and of the driver."""
        ...

    def device_count(self) -> int:
        """Return how many devices there are. Raises EngineUnavailable, saying why, for none."""
        ...

    def device(self, index: int) -> Device:
        """Return a device, with a context that ONNX Runtime and TensorRT share."""
        ...
