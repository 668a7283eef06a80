"""Choose which ready images an idle slot runs next. No lock: the owner calls it under one."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from tidegate.service.batching.admission import Admission
from tidegate.service.batching.engine_load import Running
from tidegate.service.batching.idle_work import IdleWork
from tidegate.service.batching.lanes import Lane, catch_up, fairest
from tidegate.service.batching.policy import BatchPlan, form_batch, images_for_slot
from tidegate.service.batching.queue import FairQueue
from tidegate.service.batching.slots import Batch, BatchResult, Image, Slot
from tidegate.service.batching.tickets import Ticket
from tidegate.service.types import Pixels

# Called on the slot's thread: (slot, tickets, on the all-cores engine, result) → the next batch.
Finish = Callable[[Slot, list[Ticket], bool, BatchResult], Batch | None]
FinishIdleWork = Callable[[Slot, IdleWork, BatchResult], Batch | None]
TopUpSlot = Callable[[Slot, list[Ticket], int], list[Pixels]]  # also: (slot, tickets, room)


@dataclass(slots=True)
class Dispatched:
    """Batches for slots, and the tickets that were dropped because they would be late."""

    batches: list[tuple[Slot, Batch]] = field(default_factory=list)
    late: list[Ticket] = field(default_factory=list)


class Dispatch:
    """The ready tickets of each lane, the work for idle slots, and the idle slots."""

    def __init__(
        self,
        slots: Sequence[Slot],
        devices: Sequence[int],
        admission: Admission,
        *,
        finish: Finish,
        finish_idle_work: FinishIdleWork,
        top_up: TopUpSlot | None,
        clock: Callable[[], float],
    ) -> None:
        """`devices` are those of the slots. `top_up` adds to a batch that waits for a busy device;
        None if batches never grow.
        """
        self._admission = admission
        self._load = admission.load
        self._running = admission.load.running
        self._finish = finish
        self._finish_idle_work = finish_idle_work
        self._top_up = top_up
        self._clock = clock
        self._ready: dict[Lane, FairQueue[Ticket]] = {}
        self._idle_work: deque[IdleWork] = deque()
        self._device_of = devices
        self._idle = list(reversed(slots))

    def open(self, lane: Lane) -> None:
        """Take tickets of a new lane."""
        self._ready[lane] = FairQueue()
        catch_up(lane, self._ready)

    def close(self, lane: Lane) -> None:
        """Forget a lane that is idle."""
        del self._ready[lane]

    def add(self, ticket: Ticket) -> None:
        """Add a ticket whose image is ready."""
        ready = self._ready[ticket.lane]
        if not len(ready) and len(self._ready) > 1:
            catch_up(ticket.lane, [lane for lane, queue in self._ready.items() if len(queue)])
        ready.insert(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Remove a ticket that was not dispatched."""
        self._ready[ticket.lane].remove(ticket)

    def add_idle_work(self, work: IdleWork) -> None:
        """Add work that runs when all slots are idle, or once it is overdue."""
        self._idle_work.append(work)

    def withdraw_idle_work(self, work: IdleWork) -> bool:
        """Remove work that has not started; return False if it has."""
        if work in self._idle_work:
            self._idle_work.remove(work)
            return True
        return False

    def fill_idle_slots(self) -> Dispatched:
        """Form batches while there are idle slots and ready tickets."""
        dispatched = Dispatched()
        while self._idle and (any(map(len, self._ready.values())) or self._may_run_idle_work()):
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
        if (overdue := self._overdue()) is not None:
            return self._idle_batch(slot, overdue), late
        while (lane := self._next_lane()) is not None:
            now = self._clock()
            decided = self._form_batch(lane, now, self._next(slot, lane, now))
            late += decided.shed
            if decided.dispatch:
                return self._batch(slot, lane, decided.dispatch, now), late
        self._running[slot.index] = None
        if self._may_run_idle_work():
            return self._idle_batch(slot, self._idle_work[0]), late
        self._idle.append(slot)
        return None, late

    def grow(
        self, slot: Slot, tickets: list[Ticket], room: int
    ) -> tuple[list[Pixels], list[Ticket]]:
        """Add ready tickets to a slot's batch; return their images and the dropped tickets."""
        lane = tickets[0].lane
        room = min(room, lane.limits.max_batch_size - len(tickets))
        if room <= 0 or not len(self._ready[lane]):
            return [], []
        now = self._clock()
        decided = self._form_batch(lane, now, self._next(slot, lane, now, room))
        tickets += decided.dispatch
        if running := self._running[slot.index]:
            self._running[slot.index] = replace(running, images=len(tickets))
        # Batches grow only if decoder threads decode, so these images are pixels.
        added = [image for image in _images(decided.dispatch) if isinstance(image, np.ndarray)]
        return added, decided.shed

    def _next_lane(self) -> Lane | None:
        heads = [(lane, ready.head.key) for lane, ready in self._ready.items() if len(ready)]
        if len(heads) > 1:
            return fairest(heads)
        return heads[0][0] if heads else None

    def _may_run_idle_work(self) -> bool:
        """Return whether idle work may start: it must leave the other slots to requests."""
        return bool(self._idle_work) and (not any(self._running) or self._overdue() is not None)

    def _overdue(self) -> IdleWork | None:
        """Return the first work that must not wait longer; work without such a time may precede."""
        if not self._idle_work:
            return None
        now = self._clock()
        return next((work for work in self._idle_work if work.overdue_at <= now), None)

    def _idle_batch(self, slot: Slot, work: IdleWork) -> Batch:
        self._idle_work.remove(work)
        work.lane.batches += 1
        self._running[slot.index] = Running(
            work.lane, self._clock(), len(work.images), work.decode_s
        )
        return Batch(
            work.images,
            partial(self._finish_idle_work, slot, work),
            work.engine,
            slot.index if work.engine_slot is None else work.engine_slot,
        )

    def _batch(self, slot: Slot, lane: Lane, tickets: list[Ticket], now: float) -> Batch:
        is_single = len(tickets) == 1 and not any(self._running)
        all_cores_engine = lane.all_cores_engine if is_single else None
        decode_s = sum(ticket.slot_decode_s for ticket in tickets)
        self._running[slot.index] = Running(lane, now, len(tickets), decode_s)
        lane.batches += 1
        lane.use(lane.latency.typical.predict(len(tickets)) + decode_s)
        return Batch(
            _images(tickets),
            partial(self._finish, slot, tickets, all_cores_engine is not None),
            all_cores_engine or lane.engine,
            0 if all_cores_engine else slot.index,
            self._top_up and partial(self._top_up, slot, tickets),
        )

    def _next(self, slot: Slot, lane: Lane, now: float, room: int | None = None) -> list[Ticket]:
        """Return the tickets that run next, up to `room`, or up to what a slot takes.

        They are taken by preference, unless one with an earlier deadline would then be late.
        """
        queue = self._ready[lane]
        most = room or images_for_slot(self._together(slot, lane, now), lane.limits)
        preferred = queue.preferred(most)
        pace = partial(self._load.pace, lane, now, idle=slot.index)
        return preferred if queue.may_go_first(preferred, pace) else queue.first(most)

    def _together(self, slot: Slot, lane: Lane, now: float) -> int:
        """Count the tickets that may run together, as far as it matters.

        On slots with their own cores each image adds nearly its full duration to the batch, and
        whoever comes next waits for it. So a ticket that could be overtaken has no company there,
        as long as all are in time without, beside what is preferred to it and may come.
        """
        queue, limits = self._ready[lane], lane.limits
        if limits.side_by_side == 1:
            return len(queue)
        first, *others = queue.preferred(limits.max_batch_size * limits.side_by_side)
        for count, ticket in enumerate(others, 1):
            if self._admission.may_be_overtaken(ticket, first.turn, now):
                alone = self._load.pace(lane, now, images=1, idle=slot.index)
                left = 1 - self._admission.reserved(ticket.level, now)
                alone = alone._replace(each_s=alone.each_s / left)
                return count if queue.all_in_time(alone) else 1 + len(others)
        return 1 + len(others)

    def _form_batch(self, lane: Lane, now: float, chosen: list[Ticket]) -> BatchPlan[Ticket]:
        """Form a batch of the chosen tickets, or of others if these are late.

        Removes what was decided on.
        """
        queue = self._ready[lane]
        ready, most = len(queue), len(chosen)
        decode_s = sum(ticket.slot_decode_s for ticket in chosen)
        decided = form_batch(now, queue.take(chosen), ready, lane.latency, most, decode_s)
        for ticket in decided.shed:
            self._admission.remove(ticket)
        for ticket in decided.dispatch:
            self._admission.dispatch(ticket)
            ticket.dispatched_at = now
        return decided

    def _least_loaded(self) -> Slot:
        """Return an idle slot whose device runs the fewest batches."""
        if len(self._idle) > 1 and self._device_of[-1]:  # there are several devices
            busy = Counter(
                self._device_of[index]
                for index, running in enumerate(self._running)
                if running is not None
            )
            # Among equals, prefer the slot that was used last.
            least = min(reversed(self._idle), key=lambda slot: busy[self._device_of[slot.index]])
            self._idle.remove(least)
            return least
        return self._idle.pop()


def _images(tickets: Sequence[Ticket]) -> list[Image]:
    return [ticket.image for ticket in tickets if ticket.image is not None]
