"""What a runtime gives to the slots of a GPU: a loaded model, executions of it, CUDA graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from tidegate.service.engines.cuda.base import Address, Device, StreamHandle


@dataclass(frozen=True, slots=True)
class Tensor:
    """An output: the type of its elements and the shape of one image's result."""

    dtype: DTypeLike
    row: tuple[int, ...]

    def bytes_of(self, images: int) -> int:
        """Return the size in bytes for `images` images."""
        return images * int(np.prod(self.row, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Execution(Protocol):
    """One slot's state of a program. Used by one thread at a time."""

    def enqueue(
        self, batch: int, pixels: Address, outputs: Mapping[str, Address], stream: StreamHandle
    ) -> None:
        """Compute a batch from and to device memory.

        May return before the batch is computed. The addresses for a given `batch` never change.
        """
        ...


class Graph(Execution, Protocol):
    """An execution of one batch size that replays a CUDA graph. Its first batch captures it."""

    def close(self) -> None:
        """Free the graph. No batch may be running."""
        ...


class Program(Protocol):
    """A model loaded on one device."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Return (height, width) of its input."""
        ...

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """Return its outputs, by name."""
        ...

    @property
    def execution_bytes(self) -> int:
        """Return the bytes of device memory that executions compute in; 0: they have their own."""
        ...

    @property
    def in_stream_order(self) -> bool:
        """Return whether `enqueue` follows the stream; if not, the stream must be complete."""
        ...

    def execution(self, device: Device, workspace: Address) -> Execution:
        """Return a new execution on `device`, which computes in the block at `workspace`.

        Executions with the same block must run one after the other. Raises OutOfDeviceMemory or
        CudaError.
        """
        ...

    def can_capture(self, device: Device) -> bool:
        """Return whether it has CUDA graphs on `device`."""
        ...

    def graph(self, device: Device, workspace: Address) -> Graph:
        """Return a new graph on `device`, with the same workspace. Raises as `execution`."""
        ...

    def keep(self, largest: int) -> None:
        """Free what is held for batches larger than `largest`, which will not run again."""
        ...


class DeviceGraph:
    """Captures the work that an execution puts on a stream, and replays it."""

    def __init__(self, device: Device, execution: Execution) -> None:
        self._device = device
        # A graph refers to its execution's state, which another shape would change.
        self._execution = execution
        self._graph: Any = None

    def enqueue(
        self, batch: int, pixels: Address, outputs: Mapping[str, Address], stream: StreamHandle
    ) -> None:
        if self._graph is None:
            work = partial(self._execution.enqueue, batch, pixels, outputs, stream)
            # A runtime prepares a shape on its first run, and a capture must not contain that.
            work()
            self._device.synchronize(stream)
            self._graph = self._device.capture(stream, work)
        self._device.launch(self._graph, stream)

    def close(self) -> None:
        if self._graph is not None:
            self._device.discard(self._graph)
            self._graph = None
