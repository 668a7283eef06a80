"""One slot of a GPU: a stream, pinned buffers, device buffers and executions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from tidegate.service.engines.base import PARTS
from tidegate.service.engines.cuda.base import Address, Device
from tidegate.service.engines.faults import CudaError, Fault, fault_of
from tidegate.service.engines.gpu_program import Execution, Graph, Program
from tidegate.service.types import OUTPUT_NAMES, Outputs, Pixels

_ALIGNED = 256  # bytes, the alignment of cudaMalloc


class SlotBuffers:
    """One slot's buffers, stream and executions. It runs one batch at a time."""

    def __init__(self, device: Device, program: Program, buckets: Sequence[int]) -> None:
        """Allocate everything for batches up to the largest of `buckets`.

        Raises OutOfDeviceMemory or CudaError.
        """
        height, width = program.input_size
        largest = buckets[-1]
        self._device = device
        self._program = program
        # One block for all executions and graphs of the slot, since only one of them runs.
        size = program.execution_bytes
        self._workspace = device.allocate(size) if size else Address(0)
        self._execution = program.execution(device, self._workspace)
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
        self._graphs: dict[int, Graph] = {}  # by bucket
        self.parts_s: dict[str, float] = {}

    def add(self, images: Sequence[Pixels]) -> None:
        """Add images to the batch and copy them to the device.

        Returns before they are copied, unless the runtime needs them complete.
        """
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
        if not self._program.in_stream_order:
            self._device.synchronize(self._stream)

    def compute(self, bucket: int, *, as_graph: bool) -> Outputs:
        """Run the batch, padded to `bucket`, return its outputs and start an empty batch."""
        device, stream = self._device, self._stream
        device.record(self._started, stream)
        self._enqueue(self._graphs[bucket] if as_graph else self._execution, bucket)
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
        if bucket not in self._graphs:
            graph = self._program.graph(self._device, self._workspace)
            try:
                self._enqueue(graph, bucket)
                self._device.synchronize(self._stream)
            except BaseException:
                graph.close()
                raise
            self._graphs[bucket] = graph

    def forget(self, bucket: int) -> None:
        """Free the graph of batches of `bucket`, if there is one."""
        if (graph := self._graphs.pop(bucket, None)) is not None:
            graph.close()

    def close(self) -> None:
        """Free the graphs; the rest is freed with the device."""
        for bucket in list(self._graphs):
            self.forget(bucket)

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
