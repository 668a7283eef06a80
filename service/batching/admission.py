"""What is admitted and waits, and what an arrival would have to wait for. No clock, no lock.

Its owner calls it under one lock: slots' threads and the event loop change what it counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.service.batching.client_places import ClientPlaces
from tidegate.service.batching.client_shares import ClientShares
from tidegate.service.batching.decode_times import DecodeCost, DecodeTimes
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.placement import DecodePlacement, OnDecoders, Placement
from tidegate.service.batching.policy import Backlog, Latency, Limits, Refusal, eta_s, refuse
from tidegate.service.batching.queue import AdmittedKeys
from tidegate.service.batching.tickets import Ticket
from tidegate.service.types import Priority

# Large images per decoder of theirs, at most, the one on it included: their uploads are large too.
_LARGE_WAITING = 8


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that asks to be admitted."""

    deadline: float  # on the owner's clock
    priority: Priority
    cost: DecodeCost
    client: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """What is known of an arrival when it is admitted; seconds."""

    predicted_s: float  # until its answer, typically
    decode_s: float  # predicted, with caution
    work_s: float  # decoding and engine, counted against its client
    slot_decode_s: float  # of that, on the slot that runs the image
    placement: Placement  # where its image is decoded


@dataclass(frozen=True, slots=True)
class Running:
    """A batch on a slot: when it began, of how many images, and their predicted decoding."""

    started: float
    images: int
    decode_s: float


class Admission:
    """Counts what waits and runs, learns what decoding costs, and decides on arrivals."""

    def __init__(
        self,
        latency: LatencyModel,
        slots: int,
        placement: DecodePlacement,
        *,
        has_single_image_engine: bool,
    ) -> None:
        """`has_single_image_engine`: an image that is alone runs on all cores."""
        self.running: list[Running | None] = [None] * slots  # None: the slot is idle
        self._latency = latency
        self._placement = placement
        self._has_single_image_engine = has_single_image_engine
        self._decode_times = DecodeTimes()
        self._shares = ClientShares()
        self._order = AdmittedKeys()
        self._slot_decode_s = 0.0  # predicted, of all in `_order` that slots decode
        self._places = ClientPlaces()  # of all that wait
        self._large_places = ClientPlaces()  # of large images: waiting for a decoder, or on one

    @property
    def waiting(self) -> int:
        """Return how many requests are admitted and not dispatched."""
        return self._places.taken

    def decide(self, arrival: Arrival, now: float, limits: Limits) -> Admitted | Refusal:
        """Return what an arrival may expect, or why it is refused."""
        placement = self._placement.of(arrival.cost)
        decode_s = self._decode_times.predict_s(arrival.cost, now)
        work_s = decode_s + self._latency.predict(1)
        backlog = self._backlog(arrival, now, self._latency, placement, decode_s)
        share = self._shares.share(arrival.client, work_s, now)
        has_place = self._places.are_free(arrival.client, limits.max_queue, self._shares.active)
        refusal = refuse(
            arrival.deadline - now, backlog, self._latency, limits, share, has_place=has_place
        )
        if refusal is None and placement is self._placement.large:
            refusal = self._refuse_large(arrival.client, placement, backlog)
        if refusal is not None:
            return refusal
        predicted_s = self._predict_s(arrival, now, placement, limits.max_batch_size)
        return Admitted(predicted_s, decode_s, work_s, backlog.own_slot_decode_s, placement)

    def add(self, ticket: Ticket) -> None:
        """Count a ticket as waiting: until a large image is decoded, or in the engine's order."""
        ticket.queued = True
        self._places.add(ticket.client)
        if self._is_large(ticket):
            self._large_places.add(ticket.client)
        else:
            self._order.add(ticket)
            self._slot_decode_s += ticket.slot_decode_s

    def remove(self, ticket: Ticket) -> None:
        """Count a ticket that waited as dispatched, failed or left."""
        ticket.queued = False
        self._places.remove(ticket.client)
        if self._is_large(ticket):
            self._large_places.remove(ticket.client)
        else:
            self._order.discard(ticket)
            self._slot_decode_s = max(0.0, self._slot_decode_s - ticket.slot_decode_s)

    def charge(self, ticket: Ticket) -> None:
        """Count a ticket's work against its client."""
        self._shares.add(ticket.client, ticket.work_s)

    def discharge(self, ticket: Ticket) -> None:
        """Count out a ticket's work, once."""
        self._shares.remove(ticket.client, ticket.work_s)
        ticket.work_s = 0.0

    def observe_decode(self, cost: DecodeCost, seconds: float, now: float) -> None:
        """Learn from an image that was decoded; one that could not be says nothing."""
        self._decode_times.observe(cost, seconds, now)

    def _refuse_large(self, client: str, decoders: OnDecoders, backlog: Backlog) -> Refusal | None:
        """Return why a large image is refused, whose client may wait in the queue otherwise."""
        places = _LARGE_WAITING * decoders.workers
        if self._large_places.are_free(client, places, self._shares.active):
            return None
        reason = "queue-full" if self._large_places.taken >= places else "client-share"
        return Refusal(reason, max(1, math.ceil(backlog.decoders_free_in_s)))

    def _is_large(self, ticket: Ticket) -> bool:
        return ticket.placement is self._placement.large

    def _predict_s(
        self, arrival: Arrival, now: float, placement: Placement, max_batch_size: int
    ) -> float:
        """Return how long an arrival is expected to take: typically, without caution."""
        decode_s = self._decode_times.typical_s(arrival.cost, now)
        if self._has_single_image_engine and not self.waiting and not any(self.running):
            return self._latency.single_image_s + decode_s
        typical = self._latency.typical
        expected = self._backlog(arrival, now, typical, placement, decode_s)
        return eta_s(expected, typical, max_batch_size)

    def _backlog(
        self,
        arrival: Arrival,
        now: float,
        latency: Latency,
        placement: Placement,
        decode_s: float,
    ) -> Backlog:
        """Return what stands before an arrival whose image takes `decode_s`."""
        priority, deadline = arrival.priority, arrival.deadline
        decoding = placement.wait(priority, deadline, decode_s)
        return Backlog(
            slots_free_in_s=_free_in_s(self.running, now, latency),
            waiting=self.waiting,
            ahead=self._order.before(priority, deadline),
            slot_decode_s=self._slot_decode_s / max(1, len(self._order)),
            own_slot_decode_s=decoding.on_slot_s,
            decoders_free_in_s=decoding.decoders_free_in_s,
            own_decode_s=decoding.on_decoder_s,
        )


def _free_in_s(running: Sequence[Running | None], now: float, latency: Latency) -> list[float]:
    """Return when each slot is free; 0 for one that is idle."""
    free_in_s = []
    for batch in running:
        left = 0.0
        if batch is not None:
            left = batch.started + latency.predict(batch.images) + batch.decode_s - now
            # Overdue is not free: it takes at least one more image's time.
            left = left if left >= 0 else latency.unloaded_s
        free_in_s.append(left)
    return free_in_s
