"""Slots on one GPU: while one batch computes, others are copied in and out, and the next one grows.

Each slot has a stream, pinned and device buffers of its own. All but one of them may be on the
device at once; the last one's batch is copied in already and takes in what becomes ready until its
turn comes. What computes is a `Program`; nothing here knows which runtime it is.
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

_ALIGNED = 256  # bytes, as cudaMalloc's own blocks are


@dataclass(frozen=True, slots=True)
class Tensor:
    """An output: the type of its elements and the shape of one image's row."""

    dtype: DTypeLike
    row: tuple[int, ...]

    def bytes_of(self, images: int) -> int:
        """Return the bytes of so many rows."""
        return images * int(np.prod(self.row, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Execution(Protocol):
    """One slot's state of a program. One thread at a time."""

    def enqueue(
        self, batch: int, pixels: Address, outputs: Mapping[str, Address], stream: StreamHandle
    ) -> None:
        """Compute a batch from and to device memory, in the stream's order.

        May return before it is computed. `batch` always comes with the same addresses.
        """
        ...


class Program(Protocol):
    """A model loaded on one device."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Return (height, width) of the pixels it takes."""
        ...

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """Return what it gives, by name."""
        ...

    @property
    def execution_bytes(self) -> int:
        """Return the device memory an execution takes; 0 where that is not known."""
        ...

    @property
    def capturable(self) -> bool:
        """Tell whether what `enqueue` does can be captured as a CUDA graph."""
        ...

    def execution(self, device: Device) -> Execution:
        """Return a new one, for streams of `device`. Raises OutOfDeviceMemory or CudaError."""
        ...


class DeviceEngine:
    """A program on one device, behind the engine protocol."""

    def __init__(
        self,
        device: Device,
        program: Program,
        info: EngineInfo,
        *,
        slots: int,
        buckets: Sequence[int],
    ) -> None:
        """Allocate everything there will ever be: buffers and an execution for every slot.

        Takes fewer slots, and says so, where the memory is not enough for all.
        Raises EngineUnavailable where it is not enough for one.
        """
        self._device = device
        self._info = info
        self._input_size = program.input_size
        self._buckets = tuple(sorted(buckets))
        self._lanes: list[_SlotBuffers] = []
        self._as_graphs: set[int] = set()
        device.use()
        self._open(program, slots)
        self.can_capture = program.capturable and device.can_capture
        # With one slot there is nothing to prepare beside what runs.
        self._turns = threading.BoundedSemaphore(max(1, len(self._lanes) - 1))

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def slots(self) -> int:
        return len(self._lanes)

    @property
    def max_batch_size(self) -> int:
        return self._buckets[-1]

    @property
    def input_size(self) -> tuple[int, int]:
        return self._input_size

    @property
    def buckets(self) -> tuple[int, ...]:
        """Return the batch sizes that run; others are padded."""
        return self._buckets

    def device_of(self, slot: int) -> int:
        return 0

    def run(self, slot: int, images: Sequence[Pixels], top_up: TopUp | None = None) -> Outputs:
        lane = self._lanes[slot]
        self._device.use()
        try:
            lane.take_in(images)
            with self._turns:
                room = self.max_batch_size - lane.images
                if top_up is not None and room and (added := top_up(room)):
                    lane.take_in(added)
                bucket = self._bucket(lane.images)
                return lane.compute(bucket, as_graph=bucket in self._as_graphs)
        except Exception as error:
            lane.settle(error)
            raise

    def parts_s(self, slot: int) -> Mapping[str, float]:
        return self._lanes[slot].parts_s

    @property
    def captured(self) -> frozenset[int]:
        """Return the batch sizes that run as CUDA graphs."""
        return frozenset(self._as_graphs)

    def capture(self, bucket: int) -> None:
        """Have every slot run batches of `bucket` as a CUDA graph from now on.

        Raises what the runtime does where it cannot be captured; then none does.
        """
        self._device.use()
        for lane in self._lanes:
            lane.capture(bucket)
        self._as_graphs.add(bucket)

    def release(self, bucket: int) -> None:
        """Have batches of `bucket` run without their graph again, which is kept."""
        self._as_graphs.discard(bucket)

    def forget(self, bucket: int) -> None:
        """Free what a graph of `bucket` takes; batches run without it."""
        self.release(bucket)
        for lane in self._lanes:
            lane.forget(bucket)

    def close(self) -> None:
        self._lanes.clear()
        self._device.close()

    def _bucket(self, images: int) -> int:
        return next(bucket for bucket in self._buckets if bucket >= images)

    def _open(self, program: Program, slots: int) -> None:
        for slot in range(slots):
            try:
                free, _ = self._device.memory()
                if free < program.execution_bytes:
                    raise OutOfDeviceMemory(
                        f"an execution takes {program.execution_bytes:,} bytes, {free:,} are free"
                    )
                self._lanes.append(_SlotBuffers(self._device, program, self._buckets))
            except Exception as error:
                if fault_of(error) is not Fault.MEMORY:
                    raise
                if not slot:
                    raise EngineUnavailable(
                        f"{self._device.name} has no memory for one slot with batches of "
                        f"{self.max_batch_size}: {error}. Lower TIDEGATE_MAX_BATCH_SIZE."
                    ) from error
                log.warning("memory for %d of %d slots: %s", slot, slots, error)
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
        # A batch is copied in at once, and once more when it grew; then computed; then copied out.
        self._copies = [(device.event(), device.event()) for _ in range(2)]
        self._started, self._computed, self._done = (device.event() for _ in range(3))
        self._taken_in = 0
        self.images = 0
        self._graphs: dict[int, tuple[Any, Execution]] = {}  # what was captured, and of what
        self.parts_s: dict[str, float] = {}

    def take_in(self, images: Sequence[Pixels]) -> None:
        """Add images to the batch and begin to copy them to the device."""
        first, start = self.images, self.images * self._image_bytes
        for row, image in enumerate(images, first):
            self._rows[row] = image
        end = start + len(images) * self._image_bytes
        before, after = self._copies[self._taken_in]
        self._device.record(before, self._stream)
        to = Address(self._pixels + start)
        self._device.copy_in(to, self._staging[start:end], self._stream)
        self._device.record(after, self._stream)
        self._taken_in += 1
        self.images += len(images)

    def compute(self, bucket: int, *, as_graph: bool) -> Outputs:
        """Run the batch, padded to `bucket`, and return what came of it; then it is forgotten."""
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
        copied_s = [device.elapsed_s(*copy) for copy in self._copies[: self._taken_in]]
        computed_s = device.elapsed_s(self._started, self._computed)
        answered_s = device.elapsed_s(self._computed, self._done)
        self.parts_s = dict(zip(PARTS, (sum(copied_s), computed_s, answered_s), strict=True))
        images, self.images, self._taken_in = self.images, 0, 0
        return self._outputs(bucket, images)

    def capture(self, bucket: int) -> None:
        """Keep a graph of batches of `bucket`, unless there is one."""
        if bucket in self._graphs:
            return
        # A graph holds its execution's memory and state, which another shape would change.
        execution = self._program.execution(self._device)
        # What a runtime prepares for a shape, it prepares at its first run; a capture must not.
        self._enqueue(execution, bucket)
        self._device.synchronize(self._stream)
        captured = self._device.capture(self._stream, lambda: self._enqueue(execution, bucket))
        self._graphs[bucket] = captured, execution

    def forget(self, bucket: int) -> None:
        """Drop the graph of batches of `bucket`, if there is one."""
        self._graphs.pop(bucket, None)

    def settle(self, error: Exception) -> None:
        """Forget a batch that failed, once nothing of it is on its way any more.

        Raises CudaError instead of `error` where the device turns out to be lost.
        """
        self.images = self._taken_in = 0
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
        """Return where a bucket's outputs are, side by side for one copy out, and their bytes."""
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
