"""One front end, as the process of the engine sees it: its slots, and the images in them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import cast

from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.records import Kind, Record, Status
from tidegate.service.batching.remote import slot_in
from tidegate.service.batching.ring import Layout, Ring, SlotViews
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.batching.tickets import Answer, Ticket
from tidegate.service.errors import DeadlineMissed, Overloaded
from tidegate.service.types import Priority

# Plain numbers: a member of an enumeration takes longer to look up than the rest of a record.
_READY, _RELEASE, _CANCEL, _CLOSED = map(int, (Kind.READY, Kind.RELEASE, Kind.CANCEL, Kind.CLOSED))
_PRIORITIES = {int(priority): priority for priority in Priority}


class ProtocolError(Exception):
    """A front end sent what it must not send; it is ended like one that crashed."""


class State(Enum):
    """Of a slot that is not free."""

    SENT = "sent"  # it waits, or runs
    LEFT = "left"  # the same, and the request has left
    DONE = "done"


@dataclass(slots=True, eq=False)
class Place:
    """A slot in use."""

    lane: Lane
    views: SlotViews
    ticket: Ticket = field(init=False)
    state: State = State.SENT


# (lane, parts of the slot): called for each answer that was noted, before the slot is used again
OnNote = Callable[[Lane, SlotViews], None]


class Peer:
    """The images of one front end. Used on the event loop."""

    def __init__(
        self,
        scheduler: Scheduler,
        send: Callable[[Record], None],
        lane_of: Callable[[int], tuple[Lane, Layout] | None],
        on_note: OnNote,
        on_closed: Callable[[int], None],
    ) -> None:
        """`lane_of` returns the lane with a number, if the front end may use it.

        `on_closed` gets the number of each connection that was closed.
        """
        self.rings: list[Ring] = []
        self.images_read = 0
        self._scheduler = scheduler
        self._send = send
        self._lane_of = lane_of
        self._on_note = on_note
        self._on_closed = on_closed
        self._places: dict[int, Place] = {}
        self._arrived: list[Ticket] = []  # in this call of `take`, and not queued yet
        self._gone = False

    @property
    def in_use(self) -> int:
        """Return how many slots are not free."""
        return len(self._places)

    def take(self, records: Iterable[Record]) -> None:
        """Handle records. Raises ProtocolError for one that the front end must not send."""
        try:
            for record in records:
                kind = record.kind
                if kind == _READY:
                    self._ready(record)
                elif kind == _RELEASE:
                    self._release(record)
                elif kind == _CANCEL:
                    self._submit()  # it may be one of them
                    self._cancel(record.slot)
                elif kind == _CLOSED:
                    self._on_closed(record.slot)
                else:
                    raise ProtocolError(f"a record of kind {kind}")
        finally:
            self._submit()

    def lost(self) -> None:
        """Drop the images that wait. A batch that runs keeps the memory until it ends."""
        self._gone = True
        for place in list(self._places.values()):
            if place.state is not State.DONE:
                self._scheduler.leave(place.ticket)
        self._places.clear()

    def finish(self, slot: int, place: Place, record: Record) -> None:
        """Report that the engine has finished with a slot."""
        self._scheduler.leave(place.ticket)
        if self._gone:
            return
        self._send(record)
        if place.state is State.LEFT:
            del self._places[slot]
        place.state = State.DONE

    def _ready(self, record: Record) -> None:
        found = self._lane_of(record.number)
        priority = _PRIORITIES.get(record.code)
        is_number = math.isfinite(record.second + record.third)
        if found is None or record.slot in self._places or priority is None or not is_number:
            raise ProtocolError(f"READY of slot {record.slot} for lane {record.number}")
        lane, layout = found
        try:
            views = slot_in(self.rings, record.slot, layout)
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        place = self._places[record.slot] = Place(lane, views)
        outcome = cast("asyncio.Future[Answer]", _Outcome(self, record.slot, place))
        place.ticket = self._scheduler.ticket(
            lane,
            record.first,
            priority,
            outcome,
            views.pixels,
            haste=int(record.third),
            lead_s=record.second,
        )
        self._arrived.append(place.ticket)

    def _submit(self) -> None:
        """Queue what has arrived, together: the slots' threads are woken once."""
        if not self._arrived:
            return
        arrived, self._arrived = self._arrived, []
        self.images_read += len(arrived)
        self._scheduler.take(arrived)

    def _cancel(self, slot: int) -> None:
        place = self._places.get(slot)
        if place is None or place.state is State.LEFT:
            raise ProtocolError(f"CANCEL of slot {slot}")
        if place.state is State.DONE:  # DONE was on its way
            del self._places[slot]
            return
        place.state = State.LEFT
        if self._scheduler.leave(place.ticket):
            self.finish(slot, place, Record(Kind.DONE, Status.CANCELLED, slot=slot))

    def _release(self, record: Record) -> None:
        place = self._places.get(record.slot)
        if place is None or place.state is not State.DONE:
            raise ProtocolError(f"RELEASE of slot {record.slot}")
        del self._places[record.slot]
        if record.code:
            self._on_note(place.lane, place.views)


class _Outcome:
    """Takes the place of a ticket's future: the outcome goes to the front end."""

    __slots__ = ("_is_done", "_peer", "_place", "_slot")

    def __init__(self, peer: Peer, slot: int, place: Place) -> None:
        self._peer = peer
        self._slot = slot
        self._place = place
        self._is_done = False

    def done(self) -> bool:
        """Return whether the slot's outcome was reported."""
        return self._is_done

    def cancel(self) -> None:
        """Do nothing: a slot that runs is reported when it has."""

    def set_result(self, answer: Answer) -> None:
        """Write the outputs into the slot, and report it."""
        self._is_done = True
        self._place.views.write(answer.outputs)
        run = self._place.ticket.run
        began = 0.0 if run is None else run.started
        self._report(
            Record(
                Kind.DONE,
                Status.ANSWERED,
                answer.batch_size,
                self._slot,
                answer.queue_s,
                answer.engine_s,
                began,
            )
        )

    def set_exception(self, error: Exception) -> None:
        """Report why there are no outputs."""
        self._is_done = True
        status = Status.FAILED
        if isinstance(error, DeadlineMissed):
            status = Status.LATE
        elif isinstance(error, Overloaded):
            status = Status.NO_MEMORY
        self._report(Record(Kind.DONE, status, slot=self._slot))

    def _report(self, record: Record) -> None:
        self._peer.finish(self._slot, self._place, record)
