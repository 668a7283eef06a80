"""Count what runs on the engine and waits for it, in this process or in another one. No lock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.policy import Latency, Pace, Waiting
from tidegate.service.batching.queue import AdmittedKeys
from tidegate.service.types import Priority


@dataclass(frozen=True, slots=True)
class Running:
    """A batch that runs on a slot."""

    lane: Lane
    started: float  # on the owner's clock
    images: int
    decode_s: float  # predicted, on the slot, for all images


class EngineElsewhere(Protocol):
    """What runs and waits in another process, which has the engine."""

    def free_in_s(self, now: float, *, typical: bool) -> list[float]:
        """Return the seconds until each slot is free; 0 for an idle slot."""
        ...

    def ahead(self, lane: Lane, priority: Priority) -> int:
        """Return how many images of a lane wait there, in this class or a higher one."""
        ...


@dataclass(frozen=True, slots=True)
class Published:
    """What runs and waits: when each slot is free, and how many images of each class wait."""

    free_at: tuple[float, ...]  # on the owner's clock, with a margin; in the past: idle
    usually_free_at: tuple[float, ...]
    waiting: Mapping[Lane, tuple[int, int]]  # interactive and bulk


@dataclass(slots=True)
class _Waiting:
    """The requests of one lane that wait for the engine."""

    keys: AdmittedKeys = field(default_factory=AdmittedKeys)
    slot_decode_s: float = 0.0  # predicted, for all in `keys` that slots decode


class EngineLoad:
    """The batches that run, and the admitted requests of each lane that wait."""

    def __init__(self, slots: int, elsewhere: EngineElsewhere | None = None) -> None:
        """`elsewhere` is the engine's process if it is another one.

        Then what waits here waits only for a decoder.
        """
        self.running: list[Running | None] = [None] * slots  # None: the slot is idle
        self._elsewhere = elsewhere
        self._waiting: dict[Lane, _Waiting] = {}

    def open(self, lane: Lane) -> None:
        """Count requests of a new lane."""
        self._waiting[lane] = _Waiting()

    def close(self, lane: Lane) -> None:
        """Forget a lane that is idle."""
        del self._waiting[lane]

    def add(self, lane: Lane, request: Waiting) -> None:
        """Count a request as waiting."""
        self._waiting[lane].keys.add(request)
        self._waiting[lane].slot_decode_s += request.slot_decode_s

    def remove(self, lane: Lane, request: Waiting) -> None:
        """Stop counting a request as waiting."""
        waiting = self._waiting[lane]
        waiting.keys.discard(request)
        waiting.slot_decode_s = max(0.0, waiting.slot_decode_s - request.slot_decode_s)

    def keys(self, lane: Lane) -> AdmittedKeys:
        """Return the keys of the requests that wait here."""
        return self._waiting[lane].keys

    def decode_s_each(self, lane: Lane) -> float:
        """Return how long slots decode, on average, for a request that waits."""
        waiting = self._waiting[lane]
        return waiting.slot_decode_s / max(1, len(waiting.keys))

    def free_in_s(self, now: float, *, typical: bool) -> list[float]:
        """Return the seconds until each slot is free; 0 for an idle slot."""
        if self._elsewhere is not None:
            return self._elsewhere.free_in_s(now, typical=typical)
        return _free_in_s(self.running, now, typical=typical)

    def waiting_elsewhere(self, lane: Lane, priority: Priority) -> int:
        """Return how many requests wait in the engine's process, in this class or a higher one."""
        return 0 if self._elsewhere is None else self._elsewhere.ahead(lane, priority)

    def ahead(self, lane: Lane, priority: Priority, deadline: float) -> int:
        """Return how many requests of a lane run before an arrival, by deadline."""
        here = self._waiting[lane].keys.before(priority, deadline)
        return here + self.waiting_elsewhere(lane, priority)

    def other_lanes_s(
        self, own: Lane, priority: Priority, deadline: float, *, typical: bool
    ) -> float:
        """Return the slot time, per slot, of other lanes' requests that run before an arrival."""
        seconds = 0.0
        for lane in self._waiting if len(self._waiting) > 1 else ():
            images = 0 if lane is own else self.ahead(lane, priority, deadline)
            if images:
                latency, largest = latency_of(lane, typical=typical), lane.limits.max_batch_size
                full, rest = divmod(images, largest)
                seconds += full * latency.predict(largest) + images * self.decode_s_each(lane)
                seconds += latency.predict(rest) if rest else 0.0
        return seconds / len(self.running)

    def pace(
        self, lane: Lane, now: float, *, images: int | None = None, idle: int | None = None
    ) -> Pace:
        """Return how fast a lane's images are answered if all other lanes' work comes first.

        Batches have so many `images`, or are as large as possible. Images ahead take the usual
        time, as their sum varies little; the own batch has a margin. Slot `idle` has nothing to
        run, whatever it was given last.
        """
        size, slots = images or lane.limits.max_batch_size, len(self.running)
        decode_s = self.decode_s_each(lane)
        each_s = (lane.latency.typical.predict(size) / size + decode_s) / slots
        free = self.free_in_s(now, typical=True)
        if idle is not None:
            free[idle] = 0.0
        others_s = self.other_lanes_s(lane, Priority.BULK, math.inf, typical=True)
        start_s = now + others_s + sum(free) / slots
        return Pace(start_s, each_s, lane.latency.predict(size) + size * decode_s)

    def publish(self, now: float) -> Published:
        """Return what runs and waits, for the other processes that admit."""
        return Published(
            tuple(now + left for left in _free_in_s(self.running, now, typical=False)),
            tuple(now + left for left in _free_in_s(self.running, now, typical=True)),
            {lane: waiting.keys.by_class() for lane, waiting in self._waiting.items()},
        )


def latency_of(lane: Lane, *, typical: bool) -> Latency:
    """Return a lane's ℓ(b): the usual one, or one with a margin."""
    return lane.latency.typical if typical else lane.latency


def _free_in_s(running: Sequence[Running | None], now: float, *, typical: bool) -> list[float]:
    seconds = []
    for batch in running:
        left = 0.0
        if batch is not None:
            latency = latency_of(batch.lane, typical=typical)
            left = batch.started + latency.predict(batch.images) + batch.decode_s - now
            # An overdue batch still runs: assume that it takes one more image's time.
            left = left if left >= 0 else latency.unloaded_s
        seconds.append(left)
    return seconds
