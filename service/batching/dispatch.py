"""Choose which ready images an idle slot runs next. No lock: the owner calls it under one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from tidegate.service.batching.admission import Admission, Running
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.policy import BatchPlan, Limits, form_batch, images_for_slot
from tidegate.service.batching.queue import DeadlineQueue
from tidegate.service.batching.slots import Batch, BatchResult, Image, Slot
from tidegate.service.batching.tickets import Ticket
from tidegate.service.engines.base import Engine
from tidegate.service.types import Pixels

# Called on the slot's thread: (slot, tickets, on the all-cores engine, result) → the next batch.
Finish = Callable[[Slot, list[Ticket], bool, BatchResult], Batch | None]
TopUpSlot = Callable[[Slot, list[Ticket], int], list[Pixels]]  # also: (slot, tickets, room)


@dataclass(slots=True)
class Dispatched:
    """Batches for slots, and the tickets that were dropped because they would be late."""

    batches: list[tuple[Slot, Batch]] = field(default_factory=list)
    late: list[Ticket] = field(default_factory=list)


class Dispatch:
    """The ready tickets and the idle slots."""

    def __init__(
        self,
        slots: Sequence[Slot],
        engine: Engine,
        all_cores_engine: Engine | None,
        admission: Admission,
        latency: LatencyModel,
        limits: Limits,
        *,
        finish: Finish,
        top_up: TopUpSlot | None,
        clock: Callable[[], float],
    ) -> None:
        """`top_up` adds to a batch that waits for a busy device; None if batches never grow."""
        self.limits = limits
        self._all_cores_engine = all_cores_engine
        self._admission = admission
        self._latency = latency
        self._finish = finish
        self._top_up = top_up
        self._clock = clock
        self._ready: DeadlineQueue[Ticket] = DeadlineQueue()
        self._device_of = [engine.device_of(index) for index in range(engine.slots)]
        self._idle = list(reversed(slots))

    def add(self, ticket: Ticket) -> None:
        """Add a ticket whose image is ready."""
        self._ready.insert(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Remove a ticket that was not dispatched."""
        self._ready.remove(ticket)

    def fill_idle_slots(self) -> Dispatched:
        """Form batches while there are idle slots and ready tickets."""
        dispatched = Dispatched()
        while self._idle and len(self._ready):
            slot = self._least_loaded()
            batch, late = self.next_batch(slot)
            dispatched.late += late
            if batch is not None:
                dispatched.batches.append((slot, batch))
        return dispatched

    def next_batch(self, slot: Slot) -> tuple[Batch | None, list[Ticket]]:
        """Form a slot's next batch, or mark the slot as idle and return None.

        Also returns the tickets that were dropped because they would be late.
        """
        late: list[Ticket] = []
        while len(self._ready):
            now = self._clock()
            together = self._ready.not_overtaken(self.limits.max_batch_size)
            decided = self._form_batch(
                now, images_for_slot(len(self._ready), together, self.limits)
            )
            late += decided.shed
            if decided.dispatch:
                return self._batch(slot, decided.dispatch, now), late
        self._admission.running[slot.index] = None
        self._idle.append(slot)
        return None, late

    def grow(
        self, slot: Slot, tickets: list[Ticket], room: int
    ) -> tuple[list[Pixels], list[Ticket]]:
        """Add ready tickets to a slot's batch; return their images and the dropped tickets."""
        room = min(room, self.limits.max_batch_size - len(tickets))
        if room <= 0 or not len(self._ready):
            return [], []
        decided = self._form_batch(self._clock(), room)
        tickets += decided.dispatch
        if running := self._admission.running[slot.index]:
            self._admission.running[slot.index] = replace(running, images=len(tickets))
        # Batches grow only if decoder threads decode, so these images are pixels.
        added = [image for image in _images(decided.dispatch) if isinstance(image, np.ndarray)]
        return added, decided.shed

    def _batch(self, slot: Slot, tickets: list[Ticket], now: float) -> Batch:
        is_single = len(tickets) == 1 and not any(self._admission.running)
        all_cores_engine = self._all_cores_engine if is_single else None
        decode_s = sum(ticket.slot_decode_s for ticket in tickets)
        self._admission.running[slot.index] = Running(now, len(tickets), decode_s)
        return Batch(
            _images(tickets),
            partial(self._finish, slot, tickets, all_cores_engine is not None),
            self._top_up and partial(self._top_up, slot, tickets),
            all_cores_engine,
        )

    def _form_batch(self, now: float, most: int) -> BatchPlan[Ticket]:
        """Form a batch from the head of the ready queue, and remove what was decided on."""
        ready = len(self._ready)
        decode_s = sum(ticket.slot_decode_s for ticket in self._ready.first(most))
        decided = form_batch(now, self._ready.take(), ready, self._latency, most, decode_s)
        for ticket in (*decided.shed, *decided.dispatch):
            self._admission.remove(ticket)
            ticket.dispatched_at = now
        return decided

    def _least_loaded(self) -> Slot:
        """Return an idle slot whose device runs the fewest batches."""
        if len(self._idle) > 1 and self._device_of[-1]:  # there are several devices
            busy = Counter(
                self._device_of[index]
                for index, running in enumerate(self._admission.running)
                if running is not None
            )
            # Among equals, prefer the slot that was used last.
            least = min(reversed(self._idle), key=lambda slot: busy[self._device_of[slot.index]])
            self._idle.remove(least)
            return least
        return self._idle.pop()


def _images(tickets: Sequence[Ticket]) -> list[Image]:
    return [ticket.image for ticket in tickets if ticket.image is not None]
