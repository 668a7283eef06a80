"""A fake runtime on `FakeDevice`. It answers with each image's identity, like `FakeEngine`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from tests.fake_cuda import FakeDevice
from tests.fakes import CLASSES, FEATURES, SIDE, FakeEngine
from tidegate.service.engines.cuda.base import Address, Device, StreamHandle
from tidegate.service.engines.faults import OutOfDeviceMemory
from tidegate.service.engines.gpu_program import DeviceGraph, Tensor
from tidegate.service.types import Pixels

OUTPUTS = {
    "logits": Tensor(np.float32, (CLASSES,)),
    "features": Tensor(np.float32, (FEATURES,)),
    "scores": Tensor(np.float32, (2,)),
    "nearest_class": Tensor(np.int64, ()),
}


class FakeProgram:
    """Computes on the device, in stream order. `executions` limits how many it can create.

    `largest_batch`: a larger batch runs out of memory. `losing`: a batch with one of these
    identities loses the device.
    """

    in_stream_order = True
    input_size = (SIDE, SIDE)
    outputs: Mapping[str, Tensor] = OUTPUTS

    def __init__(
        self,
        device: FakeDevice,
        *,
        execution_bytes: int = 0,
        executions: int = 100,
        largest_batch: int | None = None,
        losing: Collection[int] = (),
    ) -> None:
        self.device = device
        self.execution_bytes = execution_bytes
        self.workspaces: list[Address] = []  # of each execution
        self.kept: int | None = None  # the largest batch size that is still used
        self.batches: list[int] = []  # sizes of the enqueued batches, including padding
        self.on_enqueue: Callable[[], None] = lambda: None
        self._executions = executions
        self._largest_batch = largest_batch
        self._losing = frozenset(losing)

    def execution(self, device: Device, workspace: Address) -> FakeProgram:
        if not self._executions:
            raise OutOfDeviceMemory("no more executions")
        self._executions -= 1
        self.workspaces.append(workspace)
        return self

    def can_capture(self, device: Device) -> bool:
        return device.can_capture

    def graph(self, device: Device, workspace: Address) -> DeviceGraph:
        return DeviceGraph(device, self.execution(device, workspace))

    def keep(self, largest: int) -> None:
        self.kept = largest

    def enqueue(
        self, batch: int, pixels: Address, outputs: Mapping[str, Address], stream: StreamHandle
    ) -> None:
        self.on_enqueue()
        self.batches.append(batch)
        if self._largest_batch is not None and batch > self._largest_batch:
            raise OutOfDeviceMemory(f"no memory for {batch}")
        self.device.enqueue("compute", stream, lambda: self._compute(batch, pixels, outputs))

    def _compute(self, batch: int, pixels: Address, outputs: Mapping[str, Address]) -> None:
        size = SIDE * SIDE * 3
        rows = self.device._at(pixels, batch * size).reshape(batch, SIDE, SIDE, 3)
        images = [Pixels(row.copy()) for row in rows]
        answers = FakeEngine(max_batch_size=batch).run(0, images)
        if self._losing.intersection(answers.nearest_class.tolist()):
            self.device.lost = True
        for name, tensor in OUTPUTS.items():
            to = self.device._at(outputs[name], tensor.bytes_of(batch))
            to.view(tensor.dtype).reshape(batch, *tensor.row)[...] = getattr(answers, name)
