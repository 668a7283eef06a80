"""The engine protocol: a batch of pixels in, numbers out, on a slot that one thread uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from service.types import Outputs, Pixels


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

    def run(self, slot: int, images: Sequence[Pixels]) -> Outputs:
        """Run 1 to `max_batch_size` images, uint8 [H, W, 3] each; blocks until they are computed.

        Returns arrays the caller owns, in the order of `images`. Raises whatever the runtime does.
        """
        ...

    def close(self) -> None:
        """Release the runtime's resources. No run may follow."""
        ...
