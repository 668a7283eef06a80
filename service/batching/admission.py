"""Count what waits and runs, and decide whether to admit an arrival. No clock, no lock.

The owner calls it under one lock, because the slots' threads and the event loop both use it.
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

# Limit per large decoder, including the image that it decodes: the uploads are large as well.
_LARGE_WAITING = 8


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request to admit or to reject."""

    deadline: float  # on the owner's clock
    priority: Priority
    cost: DecodeCost
    client: str  # address


@dataclass(frozen=True, slots=True)
class Admitted:
    """The predictions for an arrival that is admitted, in seconds."""

    predicted_s: float  # until the answer; the usual time
    decode_s: float  # with a margin
    work_s: float  # decoding and engine; counted against the client
    slot_decode_s: float  # decode_s if the slot decodes the image, otherwise 0
    placement: Placement  # where the image is decoded


@dataclass(frozen=True, slots=True)
class Running:
    """A batch that runs on a slot."""

    started: float  # on the owner's clock
    images: int
    decode_s: float  # predicted, on the slot, for all images


class Admission:
    """Counts what waits and runs, learns decode times, and decides on arrivals."""

    def __init__(
        self,
        latency: LatencyModel,
        slots: int,
        placement: DecodePlacement,
        *,
        has_single_image_engine: bool,
    ) -> None:
        """`has_single_image_engine`: a single image on an idle service runs on all cores."""
        self.running: list[Running | None] = [None] * slots  # None: the slot is idle
        self._latency = latency
        self._placement = placement
        self._has_single_image_engine = has_single_image_engine
        self._decode_times = DecodeTimes()
        self._shares = ClientShares()
        self._keys = AdmittedKeys()
        self._slot_decode_s = 0.0  # predicted, for all in `_keys` that slots decode
        self._places = ClientPlaces()  # of all requests that wait
        self._large_places = ClientPlaces()  # of large images that wait for a decoder or are on one

    @property
    def waiting(self) -> int:
        """Return how many requests are admitted but not dispatched."""
        return self._places.taken

    def decide(self, arrival: Arrival, now: float, limits: Limits) -> Admitted | Refusal:
        """Return the predictions for an arrival if it is admitted, otherwise why it is rejected."""
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
        """Count a ticket as waiting: for a large decoder, or otherwise for the engine."""
        ticket.queued = True
        self._places.add(ticket.client)
        if self._is_large(ticket):
            self._large_places.add(ticket.client)
        else:
            self._keys.add(ticket)
            self._slot_decode_s += ticket.slot_decode_s

    def remove(self, ticket: Ticket) -> None:
        """Stop counting a ticket as waiting."""
        ticket.queued = False
        self._places.remove(ticket.client)
        if self._is_large(ticket):
            self._large_places.remove(ticket.client)
        else:
            self._keys.discard(ticket)
            self._slot_decode_s = max(0.0, self._slot_decode_s - ticket.slot_decode_s)

    def charge(self, ticket: Ticket) -> None:
        """Count a ticket's work against its client."""
        self._shares.add(ticket.client, ticket.work_s)

    def discharge(self, ticket: Ticket) -> None:
        """Stop counting a ticket's work against its client. Later calls have no effect."""
        self._shares.remove(ticket.client, ticket.work_s)
        ticket.work_s = 0.0

    def observe_decode(self, cost: DecodeCost, seconds: float, now: float) -> None:
        """Learn from an image that was decoded successfully."""
        self._decode_times.observe(cost, seconds, now)

    def _refuse_large(self, client: str, decoders: OnDecoders, backlog: Backlog) -> Refusal | None:
        """Return why a large image that the queue would admit is rejected, or None."""
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
        """Return how long an arrival usually takes, without a margin."""
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
        """Return the work ahead of an arrival whose image takes `decode_s` to decode."""
        priority, deadline = arrival.priority, arrival.deadline
        decoding = placement.wait(priority, deadline, decode_s)
        return Backlog(
            slots_free_in_s=_free_in_s(self.running, now, latency),
            waiting=self.waiting,
            ahead=self._keys.before(priority, deadline),
            slot_decode_s=self._slot_decode_s / max(1, len(self._keys)),
            own_slot_decode_s=decoding.on_slot_s,
            decoders_free_in_s=decoding.decoders_free_in_s,
            own_decode_s=decoding.on_decoder_s,
        )


def _free_in_s(running: Sequence[Running | None], now: float, latency: Latency) -> list[float]:
    """Return the seconds until each slot is free; 0 for an idle slot."""
    free_in_s = []
    for batch in running:
        left = 0.0
        if batch is not None:
            left = batch.started + latency.predict(batch.images) + batch.decode_s - now
            # An overdue batch still runs: assume that it takes one more image's time.
            left = left if left >= 0 else latency.unloaded_s
        free_in_s.append(left)
    return free_in_s
