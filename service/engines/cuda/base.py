"""The interface to CUDA: memory, streams, events, copies and graphs of one device."""

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
    """One GPU. Every thread must call `use` first.

    A CUDA call that fails raises CudaError. Handles stay valid until `close`, which frees them.
    """

    @property
    def index(self) -> int:
        """Return its index among the devices visible to this process."""
        ...

    @property
    def name(self) -> str:
        """Return the product name."""
        ...

    @property
    def compute_capability(self) -> tuple[int, int]:
        """Return (major, minor)."""
        ...

    @property
    def can_capture(self) -> bool:
        """Return whether `capture` is supported."""
        ...

    def use(self) -> None:
        """Make this the current device of the calling thread."""
        ...

    def memory(self) -> tuple[int, int]:
        """Return (free, total) bytes of device memory."""
        ...

    def allocate(self, size: int) -> Address:
        """Allocate `size` bytes of device memory."""
        ...

    def pinned(self, size: int) -> Bytes:
        """Allocate `size` bytes of pinned host memory, whose copies can overlap with compute."""
        ...

    def stream(self) -> StreamHandle:
        """Return a stream that does not synchronise with the default stream."""
        ...

    def event(self) -> Any:
        """Return an event with timing, on which `wait` sleeps or spins, as configured."""
        ...

    def copy_in(self, to: Address, source: Bytes, stream: StreamHandle) -> None:
        """Copy pinned bytes to the device, in stream order; return without waiting."""
        ...

    def copy_out(self, to: Bytes, source: Address, stream: StreamHandle) -> None:
        """Copy into pinned bytes, in stream order; return without waiting."""
        ...

    def record(self, event: Any, stream: StreamHandle) -> None:
        """Record the event when the stream has completed its work so far."""
        ...

    def wait(self, event: Any) -> None:
        """Block until the event has occurred. Raises the device's earlier errors."""
        ...

    def elapsed_s(self, start: Any, end: Any) -> float:
        """Return the seconds between two events that have occurred."""
        ...

    def synchronize(self, stream: StreamHandle) -> None:
        """Block until the stream has completed its work."""
        ...

    def capture(self, stream: StreamHandle, enqueue: Callable[[], None]) -> Any:
        """Return a graph of the work that `enqueue` puts on the stream, without running it."""
        ...

    def launch(self, graph: Any, stream: StreamHandle) -> None:
        """Launch a captured graph on the stream."""
        ...

    def discard(self, graph: Any) -> None:
        """Free a captured graph, which must not be running."""
        ...

    def close(self) -> None:
        """Free everything. No work may be running."""
        ...


class Cuda(Protocol):
    """A Python binding to CUDA."""

    @property
    def name(self) -> str:
        """Return its name from BINDINGS, with its version."""
        ...

    @property
    def version(self) -> str:
        """Return the CUDA versions of the runtime and of the driver."""
        ...

    @property
    def major(self) -> int:
        """Return the major CUDA version of the binding, which its runtimes share."""
        ...

    def device_count(self) -> int:
        """Return the number of devices. Raises EngineUnavailable, with the reason, for none."""
        ...

    def device(self, index: int) -> Device:
        """Return a device that uses the primary context, which ONNX Runtime and TensorRT share."""
        ...
