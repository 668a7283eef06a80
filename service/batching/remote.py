"""Admit and decode here, and have another process run the engine: what a front end does.

A slot is written here only between its allocation and READY, and there only between READY and
DONE. Each READY gets exactly one DONE, and a slot is free again after it: at once if the
request has left, otherwise when the ticket is released.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tidegate.service.batching.admission import Admission
from tidegate.service.batching.admitting import Admitting
from tidegate.service.batching.client_shares import equal_weight
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.engine_load import EngineElsewhere
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.placement import DecodePlacement
from tidegate.service.batching.records import Kind, Record, Status
from tidegate.service.batching.ring import Layout, Ring, SlotViews
from tidegate.service.batching.slots import Image
from tidegate.service.batching.tickets import Answer, Ticket
from tidegate.service.errors import (
    DeadlineMissed,
    Draining,
    EngineFailed,
    Overloaded,
    TidegateError,
)
from tidegate.service.metrics import Metrics
from tidegate.service.progress import BatchRun
from tidegate.service.types import Priority

_NO_COST = DecodeCost()
_RING_BITS = 24  # of a slot's number; the rest is the ring's


@dataclass(frozen=True, slots=True)
class Destination:
    """A lane of the engine's process."""

    number: int
    layout: Layout


class Remote(Admitting):
    """Sends admitted images to the process of the engine. Used on the event loop."""

    def __init__(
        self,
        send: Callable[[Record], None],
        elsewhere: EngineElsewhere,
        *,
        slots: int,
        placement: DecodePlacement,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        weight_of: Callable[[str], float] = equal_weight,
    ) -> None:
        """`elsewhere` is what is known of the engine, which has so many `slots`."""
        admission = Admission(slots, placement, weight_of, elsewhere)
        super().__init__(admission, placement, metrics, clock)
        self._send = send
        self._rings: list[Ring] = []
        self._free: list[list[int]] = []  # by ring: the slots that no image has
        self._to: dict[Lane, Destination] = {}
        self._slots: dict[Ticket, int] = {}  # of every ticket that is not released
        self._sent: dict[int, Ticket] = {}  # by slot
        self._left: set[int] = set()  # the slots of those whose request has left
        self._noted: set[Ticket] = set()
        self.images_sent = 0

    def add_ring(self, ring: Ring) -> None:
        """Use a further memory; those of smaller slots are preferred where images fit."""
        self._rings.append(ring)
        self._free.append(list(reversed(range(ring.slots))))

    def open_lane(self, lane: Lane, to: Destination) -> None:
        """Admit images to a lane."""
        self._to[lane] = to
        with self._lock:
            self._admission.open(lane)

    def close_lane(self, lane: Lane) -> None:
        """Forget a lane that is idle."""
        del self._to[lane]
        with self._lock:
            self._admission.close(lane)

    def uses(self, lane: Lane) -> bool:
        """Return whether the engine's process has not said that it is done with a lane's images."""
        return any(ticket.lane is lane for ticket in self._sent.values())

    def admit(
        self,
        lane: Lane,
        deadline: float,
        priority: Priority,
        cost: DecodeCost = _NO_COST,
        client: str = "",
        received: float | None = None,
    ) -> Ticket:
        """Admit an arrival as `Admitting` does, if a slot is free. Raises the same errors."""
        ring = self._ring_for(self._to[lane].layout)
        if ring is None and not self.draining:
            self._metrics.shed("queue-full")
            raise Overloaded(
                f"Queue too long to answer within {1000 * (deadline - self._clock()):.0f} ms.",
                1.0,
                "queue-full",
            )
        ticket = super().admit(lane, deadline, priority, cost, client, received)
        assert ring is not None  # noqa: S101 - a draining service has admitted nothing
        self._slots[ticket] = ring << _RING_BITS | self._free[ring].pop()
        return ticket

    def submit(self, ticket: Ticket, image: Image) -> asyncio.Future[Answer]:
        """Send an image's pixels; return the same future as `run`."""
        assert isinstance(image, np.ndarray)  # noqa: S101 - decoder threads decode here
        slot = self._slots[ticket]
        self.views(ticket).pixels[...] = image
        ticket.ready_at = ticket.dispatched_at = self._clock()
        with self._lock:
            lead_s = self._admission.lead_s(ticket)
            self._admission.dispatch(ticket)
        self._sent[slot] = ticket
        self.images_sent += 1
        number = self._to[ticket.lane].number
        order = (ticket.deadline, lead_s, ticket.haste)
        self._send(Record(Kind.READY, ticket.priority, number, slot, *order))
        return ticket.answer

    def leave(self, ticket: Ticket) -> None:
        """Release a ticket in any state, and its slot as soon as the engine does not use it."""
        with self._lock:
            if ticket.queued:
                self._admission.remove(ticket)
                if ticket.job is not None:
                    ticket.placement.withdraw(ticket.job)
            ticket.job = None
            self._admission.discharge(ticket)
        self._leave_slot(ticket)
        if not ticket.answer.done():
            ticket.answer.cancel()

    def views(self, ticket: Ticket) -> SlotViews:
        """Return the parts of a ticket's slot."""
        slot = self._slots[ticket]
        ring = self._rings[slot >> _RING_BITS]
        return ring.views(slot & (1 << _RING_BITS) - 1, self._to[ticket.lane].layout)

    def note(self, ticket: Ticket) -> None:
        """Say that the slot of an answered ticket has a note, for when it is released."""
        self._noted.add(ticket)

    def take(self, records: Iterable[Record]) -> None:
        """Take the records of the engine's process, which are all DONE."""
        for record in records:
            ticket = self._sent.pop(record.slot)
            if record.slot in self._left:
                self._left.remove(record.slot)
                self._give_back(record.slot)
            else:
                self._finish(ticket, record)

    def lost(self) -> None:
        """Fail what the engine's process will not answer, and admit nothing more."""
        self.draining = True
        for ticket in self._sent.values():
            if not ticket.answer.done():
                ticket.answer.set_exception(Draining("The service is shutting down."))

    def _finish(self, ticket: Ticket, record: Record) -> None:
        if record.code == Status.ANSWERED:
            ticket.run = BatchRun(record.third, record.second, record.number)
        if ticket.answer.done():
            return  # its deadline passed
        if record.code == Status.ANSWERED:
            outputs = self.views(ticket).read()
            ticket.answer.set_result(
                Answer(outputs, ticket.decode_s, record.first, record.second, record.number)
            )
        else:
            ticket.answer.set_exception(_error_of(record.code))

    def _leave_slot(self, ticket: Ticket) -> None:
        slot = self._slots.pop(ticket, None)
        noted = ticket in self._noted
        self._noted.discard(ticket)
        if slot is None:
            return  # it was released before
        if slot in self._sent:
            self._left.add(slot)
            self._send(Record(Kind.CANCEL, slot=slot))
            return
        if ticket.ready_at:  # it was sent, and is done
            self._send(Record(Kind.RELEASE, noted, slot=slot))
        self._give_back(slot)

    def _give_back(self, slot: int) -> None:
        self._free[slot >> _RING_BITS].append(slot & (1 << _RING_BITS) - 1)

    def _ring_for(self, layout: Layout) -> int | None:
        """Return the number of the ring with the smallest free slot that is large enough."""
        return min(
            (
                number
                for number, ring in enumerate(self._rings)
                if self._free[number] and ring.slot_bytes >= layout.size
            ),
            key=lambda number: self._rings[number].slot_bytes,
            default=None,
        )


def slot_in(rings: Sequence[Ring], number: int, layout: Layout) -> SlotViews:
    """Return the parts of the slot with this number. Raises ValueError if there is none."""
    ring, slot = number >> _RING_BITS, number & (1 << _RING_BITS) - 1
    if ring >= len(rings):
        raise ValueError(f"no ring {ring}")
    return rings[ring].views(slot, layout)


def _error_of(status: int) -> TidegateError:
    if status == Status.LATE:
        return DeadlineMissed("The deadline can no longer be met.", "early-drop")
    if status == Status.NO_MEMORY:
        return Overloaded(
            "The device does not have enough memory to compute this image.", 1.0, "device-memory"
        )
    return EngineFailed("The engine could not compute this image.")
