"""Where an image is decoded: by the thread of the slot that runs it, or by decoder threads.

A slot that decodes on the cores that its engine uses saves a hand-over, and the pixels are still
in the cache when they are used. Decoder threads work while the engine does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.decoders import Decoders, Job
from tidegate.service.batching.policy import Waiting
from tidegate.service.batching.slots import Decode
from tidegate.service.cpu import cores_to_pin
from tidegate.service.types import Pixels, Priority

Submit = Callable[[Decode], object]  # queues an image for the engine
Decoded = Callable[[Pixels | Exception, float], None]  # with the seconds that decoding took


@dataclass(frozen=True, slots=True)
class DecodeWait:
    """What decoding adds to the wait of an arrival, in seconds; what does not apply is 0."""

    on_slot_s: float = 0.0
    decoders_free_in_s: float = 0.0  # until a decoder starts on the arrival
    on_decoder_s: float = 0.0


class Placement(Protocol):
    """One place to decode images."""

    def wait(self, priority: Priority, deadline: float, decode_s: float) -> DecodeWait:
        """Return what an arrival waits whose image takes `decode_s`."""
        ...

    def start(
        self, request: Waiting, decode: Decode, submit: Submit, decoded: Decoded, predicted_s: float
    ) -> Job | None:
        """Have an image decoded: `submit` it, or call `decoded` on the event loop."""
        ...

    def withdraw(self, job: Job) -> None:
        """Forget a job whose turn has not come."""
        ...


class OnSlot:
    """The thread of the slot decodes what it runs."""

    def wait(self, priority: Priority, deadline: float, decode_s: float) -> DecodeWait:
        """Return the time of decoding, which is added to that of the engine."""
        return DecodeWait(on_slot_s=decode_s)

    def start(
        self, request: Waiting, decode: Decode, submit: Submit, decoded: Decoded, predicted_s: float
    ) -> None:
        """Queue the image as it is."""
        submit(decode)

    def withdraw(self, job: Job) -> None:
        """Do nothing: there are no jobs."""


class OnDecoders:
    """Threads decode, in order of deadline, while the engine works."""

    def __init__(self, decoders: Decoders) -> None:
        self._decoders = decoders
        self.workers = decoders.workers

    def wait(self, priority: Priority, deadline: float, decode_s: float) -> DecodeWait:
        """Return the wait for a thread, and the time of decoding."""
        return DecodeWait(
            decoders_free_in_s=self._decoders.free_in_s(priority, deadline), on_decoder_s=decode_s
        )

    def start(
        self, request: Waiting, decode: Decode, submit: Submit, decoded: Decoded, predicted_s: float
    ) -> Job:
        """Queue the image for a thread."""
        return self._decoders.start(request, decode, decoded, predicted_s)

    def withdraw(self, job: Job) -> None:
        """Forget a job whose turn has not come; one that runs is finished."""
        self._decoders.withdraw(job)


class DecodePlacement:
    """Chooses where each image is decoded."""

    def __init__(self, decoders: Decoders | None, large_decoders: Decoders | None) -> None:
        """Without `decoders` slots decode; without `large_decoders` no image counts as large."""
        self.slot = OnSlot()
        self.usual: OnSlot | OnDecoders = self.slot if decoders is None else OnDecoders(decoders)
        self.large = None if large_decoders is None else OnDecoders(large_decoders)

    def of(self, cost: DecodeCost) -> OnSlot | OnDecoders:
        """Return where an image of this cost is decoded."""
        return self.large if cost.large and self.large is not None else self.usual

    @property
    def keeps_engine_free(self) -> bool:
        """Return whether images come to a slot decoded, so that a batch may still grow."""
        return self.usual is not self.slot

    def cores_of(self, slots: int) -> list[int | None]:
        """Return the core of each slot; None leaves it to the kernel.

        A slot that decodes computes on our cores: it stays on one if the slots fill them.
        """
        return [None] * slots if self.keeps_engine_free else cores_to_pin(slots)
