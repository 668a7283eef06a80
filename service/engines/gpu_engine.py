"""Slots on one GPU: while one batch computes, others are copied in and out.

Each slot has its own stream, pinned buffers and device buffers. All slots but one may run at the
same time. The remaining slot's batch is already copied to the device and is topped up with images
that become ready before its turn. A `Program` computes; this module is independent of the runtime.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tidegate.service.engines.base import PARTS, EngineInfo, TopUp
from tidegate.service.engines.cuda.base import Address, Device, StreamHandle
from tidegate.service.engines.faults import CudaError, Fault, OutOfDeviceMemory, fault_of
from tidegate.service.errors import EngineUnavailable
from tidegate.service.types import OUTPUT_NAMES, Outputs, Pixels

log = logging.getLogger(__name__)

_ALIGNED = 256  # bytes, the alignment of cudaMalloc


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
        """Compute a batch from and to device memory, in stream order.

        May return before the batch is computed. The addresses for a given `batch` never change.
        """
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
        """Return the bytes of device memory that an execution needs; 0 if unknown."""
        ...

    @property
    def capturable(self) -> bool:
        """Return whether `enqueue` can be captured as a CUDA graph."""
        ...

    def execution(self, device: Device) -> Execution:
        """Return a new execution on `device`. Raises OutOfDeviceMemory or CudaError."""
        ...


class DeviceEngine:
    """A program on one device, as an Engine."""

    def __init__(
        self,
        device: Device,
        program: Program,
        info: EngineInfo,
        *,
        slots: int,
        buckets: Sequence[int],
    ) -> None:
        """Allocate all buffers, and an execution for every slot.

        If the memory is not enough for all slots, logs a warning and opens fewer.
        Raises EngineUnavailable if it is not enough for one.
        """
        self._device = device
        self._info = info
        self._input_size = program.input_size
        self._buckets = tuple(sorted(buckets))
        self._slots: list[_SlotBuffers] = []
        self._as_graphs: set[int] = set()
        device.use()
        self._open(program, slots)
        self.can_capture = program.capturable and device.can_capture
        # One slot stays free to prepare the next batch, unless there is only one.
        self._turns = threading.BoundedSemaphore(max(1, len(self._slots) - 1))

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def max_batch_size(self) -> int:
        return self._buckets[-1]

    @property
    def input_size(self) -> tuple[int, int]:
        return self._input_size

    @property
    def buckets(self) -> tuple[int, ...]:
        """Return the batch sizes that run; smaller batches are padded."""
        return self._buckets

    def device_of(self, slot: int) -> int:
        return 0

    def run(self, slot: int, images: Sequence[Pixels], top_up: TopUp | None = None) -> Outputs:
        buffers = self._slots[slot]
        self._device.use()
        try:
            buffers.add(images)
            with self._turns:
                room = self.max_batch_size - buffers.images
                if top_up is not None and room and (added := top_up(room)):
                    buffers.add(added)
                bucket = self._bucket(buffers.images)
                return buffers.compute(bucket, as_graph=bucket in self._as_graphs)
        except Exception as error:
            buffers.settle(error)
            raise

    def parts_s(self, slot: int) -> Mapping[str, float]:
        return self._slots[slot].parts_s

    @property
    def captured(self) -> frozenset[int]:
        """Return the batch sizes that run as CUDA graphs."""
        return frozenset(self._as_graphs)

    def capture(self, bucket: int) -> None:
        """Capture batches of `bucket` as a CUDA graph on every slot, and use it from now on.

        Raises the runtime's exception if the capture fails; then no slot uses a graph.
        """
        self._device.use()
        for buffers in self._slots:
            buffers.capture(bucket)
        self._as_graphs.add(bucket)

    def release(self, bucket: int) -> None:
        """Run batches of `bucket` without their graph again; the graph is kept."""
        self._as_graphs.discard(bucket)

    def forget(self, bucket: int) -> None:
        """Run batches of `bucket` without their graph, and free the graph."""
        self.release(bucket)
        for buffers in self._slots:
            buffers.forget(bucket)

    def close(self) -> None:
        self._slots.clear()
        self._device.close()

    def _bucket(self, images: int) -> int:
        return next(bucket for bucket in self._buckets if bucket >= images)

    def _open(self, program: Program, slots: int) -> None:
        for slot in range(slots):
            try:
                free, _ = self._device.memory()
                if free < program.execution_bytes:
                    raise OutOfDeviceMemory(
                        f"an execution needs {program.execution_bytes:,} bytes, {free:,} are free"
                    )
                self._slots.append(_SlotBuffers(self._device, program, self._buckets))
            except Exception as error:
                if fault_of(error) is not Fault.MEMORY:
                    raise
                if not slot:
                    raise EngineUnavailable(
                        f"{self._device.name} has too little memory for one slot with batches of "
                        f"{self.max_batch_size}: {error}. Lower TIDEGATE_MAX_BATCH_SIZE."
                    ) from error
                log.warning("device memory low: using %d of %d slots: %s", slot, slots, error)
                break


class _SlotBuffers:
    """One slot's buffers, stream and execution."""

    def __init__(self, device: Device, program: Program, buckets: Sequence[int]) -> None:
        height, width = program.input_size
        largest = buckets[-1]
        self._device = device
        self._program = program
        self._execution = program.execution(device)
        self._tensors = {name: program.outputs[name] for name in OUTPUT_NAMES}
        self._image_bytes = height * width * 3
        self._offsets = {bucket: self._layout(bucket) for bucket in buckets}
        self._staging = device.pinned(largest * self._image_bytes)
        self._rows = self._staging.reshape(largest, height, width, 3)
        self._pixels = device.allocate(self._staging.nbytes)
        answers = max(size for _, size in self._offsets.values())
        self._answers = device.pinned(answers)
        self._results = device.allocate(answers)
        self._stream = device.stream()
        # A batch is copied in, at most twice (the second time after a top-up), then computed, then
        # copied out.
        self._copies = [(device.event(), device.event()) for _ in range(2)]
        self._started, self._computed, self._done = (device.event() for _ in range(3))
        self._copied = 0
        self.images = 0
        self._graphs: dict[int, tuple[Any, Execution]] = {}  # bucket → graph, captured execution
        self.parts_s: dict[str, float] = {}

    def add(self, images: Sequence[Pixels]) -> None:
        """Add images to the batch and start to copy them to the device."""
        first, start = self.images, self.images * self._image_bytes
        for row, image in enumerate(images, first):
            self._rows[row] = image
        end = start + len(images) * self._image_bytes
        before, after = self._copies[self._copied]
        self._device.record(before, self._stream)
        to = Address(self._pixels + start)
        self._device.copy_in(to, self._staging[start:end], self._stream)
        self._device.record(after, self._stream)
        self._copied += 1
        self.images += len(images)

    def compute(self, bucket: int, *, as_graph: bool) -> Outputs:
        """Run the batch, padded to `bucket`, return its outputs and start an empty batch."""
        device, stream = self._device, self._stream
        device.record(self._started, stream)
        if as_graph:
            graph, _ = self._graphs[bucket]
            device.launch(graph, stream)
        else:
            self._enqueue(self._execution, bucket)
        device.record(self._computed, stream)
        _, size = self._offsets[bucket]
        device.copy_out(self._answers[:size], self._results, stream)
        device.record(self._done, stream)
        device.wait(self._done)
        copied_s = [device.elapsed_s(*copy) for copy in self._copies[: self._copied]]
        computed_s = device.elapsed_s(self._started, self._computed)
        answered_s = device.elapsed_s(self._computed, self._done)
        self.parts_s = dict(zip(PARTS, (sum(copied_s), computed_s, answered_s), strict=True))
        images, self.images, self._copied = self.images, 0, 0
        return self._outputs(bucket, images)

    def capture(self, bucket: int) -> None:
        """Capture a graph of batches of `bucket`, unless there is one."""
        if bucket in self._graphs:
            return
        # A graph refers to its execution's memory and state, which another shape would change.
        execution = self._program.execution(self._device)
        # A runtime prepares a shape on its first run, and a capture must not contain that.
        self._enqueue(execution, bucket)
        self._device.synchronize(self._stream)
        captured = self._device.capture(self._stream, lambda: self._enqueue(execution, bucket))
        self._graphs[bucket] = captured, execution

    def forget(self, bucket: int) -> None:
        """Drop the graph of batches of `bucket`, if there is one."""
        self._graphs.pop(bucket, None)

    def settle(self, error: Exception) -> None:
        """Drop a batch that failed, after waiting for its work on the device to end.

        Raises CudaError instead of `error` if the wait shows that the device is lost.
        """
        self.images = self._copied = 0
        try:
            self._device.synchronize(self._stream)
        except CudaError as lost:
            if fault_of(error) is not Fault.LOST:
                raise lost from error

    def _enqueue(self, execution: Execution, bucket: int) -> None:
        offsets, _ = self._offsets[bucket]
        outputs = {name: Address(self._results + offset) for name, offset in offsets.items()}
        execution.enqueue(bucket, self._pixels, outputs, self._stream)

    def _layout(self, bucket: int) -> tuple[dict[str, int], int]:
        """Return (name → offset, total bytes) of a bucket's outputs, contiguous for one copy."""
        offsets, end = {}, 0
        for name, tensor in self._tensors.items():
            offsets[name] = end
            end += -(-tensor.bytes_of(bucket) // _ALIGNED) * _ALIGNED
        return offsets, end

    def _outputs(self, bucket: int, images: int) -> Outputs:
        offsets, _ = self._offsets[bucket]
        arrays: list[NDArray[Any]] = []
        for name, tensor in self._tensors.items():
            start = offsets[name]
            flat = self._answers[start : start + tensor.bytes_of(images)]
            arrays.append(flat.view(tensor.dtype).reshape(images, *tensor.row).copy())
        return Outputs(*arrays)
