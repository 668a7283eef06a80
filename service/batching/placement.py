"""Choose where an image is decoded: on the thread of the slot that runs it, or on decoder threads.

If the engine runs on the same cores, decoding on the slot saves a hand-over between threads, and
the pixels are still in the cache when the engine reads them. Decoder threads decode while the
engine computes, which suits an engine with its own device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from tidegate.service.batching.decode_queue import Job
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.decoders import Decoders
from tidegate.service.batching.policy import Waiting
from tidegate.service.batching.slots import Decode
from tidegate.service.cpu import cores_to_pin
from tidegate.service.types import Pixels, Priority

Submit = Callable[[Decode], object]  # queues an image for the engine
Decoded = Callable[[Pixels | Exception, float], None]  # (result, seconds that decoding took)


class DecodeWait(NamedTuple):
    """What decoding adds to the wait of an arrival, in seconds; 0 if it does not apply."""

    on_slot_s: float = 0.0  # decoding, if the slot does it
    decoders_free_in_s: float = 0.0  # until a decoder thread starts the arrival
    on_decoder_s: float = 0.0  # decoding, if a decoder thread does it


class Placement(Protocol):
    """One place to decode images."""

    def wait(
        self, priority: Priority, deadline: float, decode_s: float, *, typical: bool
    ) -> DecodeWait:
        """Return what decoding adds for an arrival whose image takes `decode_s`.

        With `typical`, images ahead count without a margin.
        """
        ...

    def delays(self, priority: Priority, deadline: float, typical_s: float) -> bool:
        """Return whether decoding an arrival makes an image late that waits behind it."""
        ...

    def start(
        self, request: Waiting, decode: Decode, submit: Submit, decoded: Decoded, typical_s: float
    ) -> Job | None:
        """Call `submit` now, or queue the image and call `decoded` later, on the event loop."""
        ...

    def withdraw(self, job: Job) -> None:
        """Remove a job that has not started."""
        ...


class OnSlot:
    """The slot that runs an image decodes it."""

    def wait(
        self, priority: Priority, deadline: float, decode_s: float, *, typical: bool
    ) -> DecodeWait:
        """Return the decode time, which adds to the engine's."""
        return DecodeWait(on_slot_s=decode_s)

    def delays(self, priority: Priority, deadline: float, typical_s: float) -> bool:
        """Return False: images wait for the slot only."""
        return False

    def start(
        self, request: Waiting, decode: Decode, submit: Submit, decoded: Decoded, typical_s: float
    ) -> None:
        """Submit the image undecoded."""
        submit(decode)

    def withdraw(self, job: Job) -> None:
        """Do nothing: there are no jobs."""


class OnDecoders:
    """Decoder threads decode, in the queue's order, while the engine computes."""

    def __init__(self, decoders: Decoders) -> None:
        self._decoders = decoders
        self.workers = decoders.workers

    def wait(
        self, priority: Priority, deadline: float, decode_s: float, *, typical: bool
    ) -> DecodeWait:
        """Return the wait for a thread and the decode time."""
        free_in_s = self._decoders.free_in_s(priority, deadline, typical=typical)
        return DecodeWait(decoders_free_in_s=free_in_s, on_decoder_s=decode_s)

    def delays(self, priority: Priority, deadline: float, typical_s: float) -> bool:
        """Return whether decoding an arrival makes an image late that waits behind it."""
        return self._decoders.delays(priority, deadline, typical_s)

    def start(
        self, request: Waiting, decode: Decode, submit: Submit, decoded: Decoded, typical_s: float
    ) -> Job:
        """Queue the image for a decoder thread."""
        return self._decoders.start(request, decode, decoded, typical_s)

    def withdraw(self, job: Job) -> None:
        """Remove a job that has not started; one that runs is not interrupted."""
        self._decoders.withdraw(job)


class DecodePlacement:
    """Chooses where each image is decoded."""

    def __init__(self, decoders: Decoders | None, large_decoders: Decoders | None) -> None:
        """Without `decoders`, slots decode. Without `large_decoders`, no image counts as large."""
        self.slot = OnSlot()
        self.usual: OnSlot | OnDecoders = self.slot if decoders is None else OnDecoders(decoders)
        self.large = None if large_decoders is None else OnDecoders(large_decoders)

    def of(self, cost: DecodeCost) -> OnSlot | OnDecoders:
        """Return where an image of this cost is decoded; pixels wait only for a slot."""
        if cost.decoded:
            return self.slot
        return self.large if cost.large and self.large is not None else self.usual

    @property
    def keeps_engine_free(self) -> bool:
        """Return whether images reach a slot decoded, so that a waiting batch can grow."""
        return self.usual is not self.slot

    def cores_of(self, slots: int) -> list[int | None]:
        """Return the core that each slot is pinned to; None leaves the choice to the kernel.

        Slots that decode keep the CPU busy; they are pinned if there are as many slots as cores.
        """
        return [None] * slots if self.keeps_engine_free else cores_to_pin(slots)
