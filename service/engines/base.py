"""The engine protocol: a batch of pixels in, numbers out, on a slot that one thread uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tidegate.service.types import Outputs, Pixels

TopUp = Callable[[int], Sequence[Pixels]]  # asked once for up to so many images that are ready now
PARTS = ("copy_in", "compute", "copy_out")  # of a batch on a device with a memory of its own


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What truly runs, as loaded, not as asked for."""

    name: str  # onnx-cpu, onnx-cuda, …
    runtime: str  # with its version
    device: str
    precision: str
    threads_per_slot: int


class Engine(Protocol):
    """Runs batches. Slots are independent; each is used by one thread at a time."""

    @property
    def info(self) -> EngineInfo:
        """Return what truly runs."""
        ...

    @property
    def slots(self) -> int:
        """Return how many batches may run at once."""
        ...

    @property
    def max_batch_size(self) -> int:
        """Return the most images `run` takes."""
        ...

    @property
    def input_size(self) -> tuple[int, int]:
        """Return (height, width) of the pixels the graph takes."""
        ...

    def device_of(self, slot: int) -> int:
        """Return which device a slot runs on: 0 where there is only one."""
        ...

    def run(self, slot: int, images: Sequence[Pixels], top_up: TopUp | None = None) -> Outputs:
        """Run 1 to `max_batch_size` images, uint8 [H, W, 3] each; blocks until they are computed.

        An engine whose device is busy holds the batch back until it is its turn, and then asks
        `top_up` for images to fill it up with. Returns arrays the caller owns, in the order of
        `images` and of what `top_up` gave. Raises whatever the runtime does.
        """
        ...

    def parts_s(self, slot: int) -> Mapping[str, float]:
        """Return the seconds of each of PARTS in the slot's last run; nothing where not known."""
        ...

    def close(self) -> None:
        """Release the runtime's resources. No run may follow."""
        ...
