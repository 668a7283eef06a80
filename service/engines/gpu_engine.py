"""Slots on one GPU: while one batch computes, others are copied in and out.

Each slot has its own stream, pinned buffers and device buffers. All slots but one may run at the
same time. The remaining slot's batch is already copied to the device and is topped up with images
that become ready before its turn. A `Program` computes; this module is independent of the runtime.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

from tidegate.service.engines.base import EngineInfo, TopUp
from tidegate.service.engines.cuda.base import Device
from tidegate.service.engines.faults import Fault, OutOfDeviceMemory, fault_of
from tidegate.service.engines.gpu_program import Program
from tidegate.service.engines.gpu_slot import SlotBuffers
from tidegate.service.errors import EngineUnavailable
from tidegate.service.types import Outputs, Pixels

log = logging.getLogger(__name__)


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
        self._program = program
        self._info = info
        self._input_size = program.input_size
        self._buckets = tuple(sorted(buckets))
        self._slots: list[SlotBuffers] = []
        self._as_graphs: set[int] = set()
        device.use()
        self._open(program, slots)
        self.can_capture = program.can_capture(device)
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

    def memory(self) -> tuple[int, int]:
        """Return (free, total) bytes of the device's memory."""
        self._device.use()
        return self._device.memory()

    def keep(self, largest: int) -> None:
        """Never run batches larger than `largest` again, and free what only they need."""
        for bucket in [bucket for bucket in self._buckets if bucket > largest]:
            self.forget(bucket)
        self._buckets = tuple(bucket for bucket in self._buckets if bucket <= largest)
        self._device.use()
        self._program.keep(largest)

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
        self._device.use()
        for buffers in self._slots:
            buffers.forget(bucket)

    def close(self) -> None:
        self._device.use()
        for buffers in self._slots:
            buffers.close()
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
                self._slots.append(SlotBuffers(self._device, program, self._buckets))
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
