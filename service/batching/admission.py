"""Count what waits and runs, and decide whether to admit an arrival. No clock, no lock.

The owner calls it under one lock, because the slots' threads and the event loop both use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from tidegate.service.batching.client_places import ClientPlaces
from tidegate.service.batching.client_shares import ClientShares, equal_weight
from tidegate.service.batching.decode_times import DecodeCost, DecodeTimes
from tidegate.service.batching.demand import Demand
from tidegate.service.batching.engine_load import EngineElsewhere, EngineLoad
from tidegate.service.batching.lanes import Lane, ModelShares
from tidegate.service.batching.placement import DecodePlacement, OnDecoders, Placement
from tidegate.service.batching.policy import Backlog, Refusal, eta_s, refuse
from tidegate.service.batching.tickets import Ticket
from tidegate.service.batching.turns import Level, Turns
from tidegate.service.types import Priority

# Limit per large decoder, including the image that it decodes: the uploads are large as well.
_LARGE_WAITING = 8
# Part of the slots' time that an arrival leaves at most to those that are preferred to it and will
# come while it waits.
_MOST_RESERVED = 0.5


class Arrival(NamedTuple):
    """A request to admit or to reject."""

    lane: Lane
    deadline: float  # on the owner's clock
    priority: Priority
    cost: DecodeCost
    client: str  # address or key
    haste: int = 0  # of the time limit

    @property
    def level(self) -> Level:
        return self.priority, self.haste


class Admitted(NamedTuple):
    """The predictions for an arrival that is admitted, in seconds."""

    predicted_s: float  # until the answer; the usual time
    typical_decode_s: float
    work_s: float  # decoding and engine, with a margin; counted against the client
    slot_decode_s: float  # decoding, with a margin, if the slot does it; otherwise 0
    turn: float  # of the client
    placement: Placement  # where the image is decoded


class Admission:
    """Counts what waits and runs, learns decode times, and decides on arrivals."""

    def __init__(
        self,
        slots: int,
        placement: DecodePlacement,
        weight_of: Callable[[str], float] = equal_weight,
        elsewhere: EngineElsewhere | None = None,
    ) -> None:
        """`weight_of` returns the weight of a client in the shares of the queue.

        `elsewhere` is the engine's process if it is another one: then what waits here waits only
        for a decoder.
        """
        self.load = EngineLoad(slots, elsewhere)
        self._placement = placement
        self._decode_times = DecodeTimes()
        self._weight_of = weight_of
        self._shares = ClientShares(weight_of)
        self._turns = Turns()
        self._demand = Demand()
        self._model_shares = ModelShares()
        self._places = ClientPlaces()  # of all requests that wait
        self._large_places = ClientPlaces()  # of large images that wait for a decoder or are on one

    @property
    def waiting(self) -> int:
        """Return how many requests are admitted but not dispatched."""
        return self._places.taken

    def open(self, lane: Lane) -> None:
        """Admit requests to a new lane."""
        self.load.open(lane)

    def close(self, lane: Lane) -> None:
        """Forget a lane that is idle."""
        self.load.close(lane)

    def decide(self, arrival: Arrival, now: float) -> Admitted | Refusal:
        """Return the predictions for an arrival if it is admitted, otherwise why it is rejected."""
        lane = arrival.lane
        limits, latency = lane.limits, lane.latency
        placement = self._placement.of(arrival.cost)
        decode_s = self._decode_times.predict_s(arrival.cost, now)
        work_s = decode_s + latency.predict(1)
        backlog = self._backlog(arrival, now, placement, decode_s)
        share, reason = self._shares.share(arrival.client, work_s, now), "client-share"
        if (of_model := self._model_shares.share(lane, work_s, now)) < share:
            share, reason = of_model, "model-share"
        part = self._shares.part(arrival.client)
        has_place = self._places.are_free(arrival.client, limits.max_queue, part)
        refusal = refuse(
            arrival.deadline - now,
            backlog,
            latency,
            limits,
            share,
            share_reason=reason,
            has_place=has_place,
        )
        if refusal is None and placement is self._placement.large:
            refusal = self._refuse_large(arrival.client, placement, backlog)
        if refusal is not None:
            return refusal
        typical_s = self._decode_times.typical_s(arrival.cost, now)
        usual = self._backlog(arrival, now, placement, typical_s, typical=True)
        refusal = self._refuse_for_others(arrival, now, placement, usual)
        if refusal is not None:
            return refusal
        self._demand.add(arrival.level, typical_s + latency.typical.predict(1), now)
        turn = self._turns.next(arrival.level, arrival.client)
        return Admitted(
            self._predict_s(arrival, usual, typical_s, turn),
            typical_s,
            work_s,
            backlog.own_slot_decode_s,
            turn,
            placement,
        )

    def add(self, ticket: Ticket) -> None:
        """Count a ticket as waiting: for a large decoder, or otherwise for the engine."""
        ticket.queued = True
        self._places.add(ticket.client)
        if self._is_large(ticket):
            self._large_places.add(ticket.client)
        else:
            self.load.add(ticket.lane, ticket)

    def remove(self, ticket: Ticket) -> None:
        """Stop counting a ticket as waiting."""
        ticket.queued = False
        self._places.remove(ticket.client)
        if self._is_large(ticket):
            self._large_places.remove(ticket.client)
        else:
            self.load.remove(ticket.lane, ticket)

    def dispatch(self, ticket: Ticket) -> None:
        """Stop counting a ticket as waiting, because it runs."""
        self.remove(ticket)
        self._turns.dispatched(ticket.level, ticket.turn)

    def may_be_overtaken(self, ticket: Ticket, turn: float, now: float) -> bool:
        """Return whether images that arrive now may go before a ticket, once `turn` runs."""
        if self._demand.may_be_overtaken(ticket.level, now):
            return True
        others = not self._shares.one_client
        return others and ticket.turn > turn and self._turns.has_job(ticket.client)

    def reserved(self, level: Level, now: float) -> float:
        """Return the part of the slots' time that goes to images preferred to this level."""
        asked = self._demand.preferred_to(level, now) / len(self.load.running)
        return min(asked, _MOST_RESERVED)

    def lead_s(self, ticket: Ticket) -> float:
        """Return how far a ticket's turn is from the one that was dispatched last."""
        return max(0.0, ticket.turn - self._turns.reached(ticket.level))

    def charge(self, ticket: Ticket) -> None:
        """Count a ticket's work against its client and its model."""
        ticket.lane.tickets += 1
        if not ticket.work_s:  # another process has admitted it, and counts its work
            ticket.turn += self._turns.reached(ticket.level)  # there, it was this far
            return
        share_s = ticket.work_s / self._weight_of(ticket.client)
        self._turns.take(ticket.level, ticket.client, ticket.turn, share_s)
        self._shares.add(ticket.client, ticket.work_s)
        self._model_shares.add(ticket.lane.model, ticket.work_s)

    def discharge(self, ticket: Ticket) -> None:
        """Stop counting a ticket's work. Later calls have no effect."""
        if not ticket.released:
            ticket.released = True
            ticket.lane.tickets -= 1
            if not ticket.work_s:
                return
            self._turns.leave(ticket.client)
            self._shares.remove(ticket.client, ticket.work_s)
            self._model_shares.remove(ticket.lane.model, ticket.work_s)

    def observe_decode(self, cost: DecodeCost, seconds: float, now: float) -> None:
        """Learn from an image that was decoded successfully."""
        self._decode_times.observe(cost, seconds, now)

    def _refuse_large(self, client: str, decoders: OnDecoders, backlog: Backlog) -> Refusal | None:
        """Return why a large image that the queue would admit is rejected, or None."""
        places = _LARGE_WAITING * decoders.workers
        if self._large_places.are_free(client, places, self._shares.part(client)):
            return None
        reason = "queue-full" if self._large_places.taken >= places else "client-share"
        return Refusal(reason, max(1, math.ceil(backlog.decoders_free_in_s)))

    def _is_large(self, ticket: Ticket) -> bool:
        return ticket.placement is self._placement.large

    def _refuse_for_others(
        self, arrival: Arrival, now: float, placement: Placement, usual: Backlog
    ) -> Refusal | None:
        """Return why an arrival is rejected that others leave no time for, or None.

        They are those that will come while it waits and are preferred to it, and those that have
        been admitted and would be late because of it. `usual` is the backlog without a margin.
        Images with one time limit come nearly in the order of their deadlines: they delay nobody.
        """
        if not (usual.waiting or usual.ahead) or not self._demand.is_mixed(arrival.level, now):
            return None
        lane, left_s = arrival.lane, arrival.deadline - now
        eta = eta_s(usual, lane.latency.typical, lane.limits.max_batch_size)
        alone_s = lane.latency.typical.predict(1) + usual.own_slot_decode_s + usual.own_decode_s
        reserved = self.reserved(arrival.level, now)
        overtaken_s = (eta - alone_s) * reserved / (1 - reserved)
        if overtaken_s > 0 and eta + overtaken_s > left_s:
            return Refusal("predicted-late", max(1, math.ceil(eta + overtaken_s - left_s)))
        order = arrival.priority, arrival.deadline
        elsewhere = self.load.waiting_elsewhere(lane, arrival.priority)
        delays = self.load.keys(lane).delays(*order, elsewhere, lambda: self.load.pace(lane, now))
        if delays or placement.delays(*order, usual.own_decode_s):
            return Refusal("predicted-late", 1)
        return None

    def _predict_s(self, arrival: Arrival, usual: Backlog, decode_s: float, turn: float) -> float:
        """Return how long an arrival usually takes, without a margin."""
        lane = arrival.lane
        if lane.all_cores_engine is not None and not self.waiting and not any(self.load.running):
            return lane.latency.single_image_s + decode_s
        ahead = self.load.keys(lane).preferred_to(*arrival.level, turn)
        ahead += self.load.waiting_elsewhere(lane, arrival.priority)
        expected = usual._replace(ahead=ahead)
        return eta_s(expected, lane.latency.typical, lane.limits.max_batch_size)

    def _backlog(
        self,
        arrival: Arrival,
        now: float,
        placement: Placement,
        decode_s: float,
        *,
        typical: bool = False,
    ) -> Backlog:
        """Return the work ahead of an arrival whose image takes `decode_s` to decode."""
        priority, deadline = arrival.priority, arrival.deadline
        decoding = placement.wait(priority, deadline, decode_s, typical=typical)
        lane = arrival.lane
        return Backlog(
            slots_free_in_s=self.load.free_in_s(now, typical=typical),
            waiting=self.waiting,
            ahead=self.load.ahead(lane, priority, deadline),
            slot_decode_s=self.load.decode_s_each(lane),
            own_slot_decode_s=decoding.on_slot_s,
            decoders_free_in_s=decoding.decoders_free_in_s,
            own_decode_s=decoding.on_decoder_s,
            other_lanes_s=self.load.other_lanes_s(lane, priority, deadline, typical=typical),
        )
