"""The engine protocol: run a batch of pixels on a slot, which one thread uses at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tidegate.service.types import Outputs, Pixels

TopUp = Callable[[int], Sequence[Pixels]]  # returns up to n images that are ready; called once
PARTS = ("copy_in", "compute", "copy_out")  # phases of a batch on a device with separate memory


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The engine as loaded, which may differ from what was requested."""

    name: str  # onnx-cpu, openvino, onnx-cuda, …
    runtime: str  # with its version
    device: str
    precision: str
    threads_per_slot: int
    instructions: str = ""  # that most of the work uses, if the runtime tells


class Engine(Protocol):
    """Runs batches. Slots are independent; each is used by one thread at a time."""

    @property
    def info(self) -> EngineInfo:
        """Return the engine as loaded."""
        ...

    @property
    def slots(self) -> int:
        """Return how many batches may run concurrently."""
        ...

    @property
    def max_batch_size(self) -> int:
        """Return the largest batch that `run` accepts."""
        ...

    @property
    def input_size(self) -> tuple[int, int]:
        """Return (height, width) of the graph's input."""
        ...

    def device_of(self, slot: int) -> int:
        """Return the index of the device a slot runs on; 0 if there is only one."""
        ...

    def run(self, slot: int, images: Sequence[Pixels], top_up: TopUp | None = None) -> Outputs:
        """Run 1 to `max_batch_size` images, uint8 [H, W, 3] each; block until they are computed.

        If the device is busy, the batch waits for its turn; the engine then calls `top_up` for
        more images to fill it. Returns arrays that the caller owns: first the rows of `images`,
        then those of the images from `top_up`. Raises the runtime's own exceptions.
        """
        ...

    def parts_s(self, slot: int) -> Mapping[str, float]:
        """Return the seconds of each of PARTS in the slot's last run; empty if not measured."""
        ...

    def keep(self, largest: int) -> None:
        """Never run batches larger than `largest` again, and free what only they need.

        `run` must not be called at the same time.
        """
        ...

    def close(self) -> None:
        """Release the runtime's resources. `run` must not be called afterwards."""
        ...
