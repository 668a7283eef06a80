"""Count what waits and runs, and decide whether to admit an arrival. No clock, no lock.

The owner calls it under one lock, because the slots' threads and the event loop both use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tidegate.service.batching.client_places import ClientPlaces
from tidegate.service.batching.client_shares import ClientShares, equal_weight
from tidegate.service.batching.decode_times import DecodeCost, DecodeTimes
from tidegate.service.batching.lanes import Lane, ModelShares
from tidegate.service.batching.placement import DecodePlacement, OnDecoders, Placement
from tidegate.service.batching.policy import Backlog, Latency, Refusal, eta_s, refuse
from tidegate.service.batching.queue import AdmittedKeys
from tidegate.service.batching.tickets import Ticket
from tidegate.service.types import Priority

# Limit per large decoder, including the image that it decodes: the uploads are large as well.
_LARGE_WAITING = 8


class Arrival(NamedTuple):
    """A request to admit or to reject."""

    lane: Lane
    deadline: float  # on the owner's clock
    priority: Priority
    cost: DecodeCost
    client: str  # address or key


class Admitted(NamedTuple):
    """The predictions for an arrival that is admitted, in seconds."""

    predicted_s: float  # until the answer; the usual time
    typical_decode_s: float
    work_s: float  # decoding and engine, with a margin; counted against the client
    slot_decode_s: float  # decoding, with a margin, if the slot does it; otherwise 0
    placement: Placement  # where the image is decoded


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
class EngineLoad:
    """What runs and waits: when each slot is free, and how many images of each class wait."""

    free_at: tuple[float, ...]  # on the owner's clock, with a margin; in the past: idle
    usually_free_at: tuple[float, ...]
    waiting: Mapping[Lane, tuple[int, int]]  # interactive and bulk


@dataclass(slots=True)
class _Waiting:
    """The requests of one lane that wait for the engine."""

    keys: AdmittedKeys = field(default_factory=AdmittedKeys)
    slot_decode_s: float = 0.0  # predicted, for all in `keys` that slots decode

    @property
    def decode_s_each(self) -> float:
        return self.slot_decode_s / max(1, len(self.keys))


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
        self.running: list[Running | None] = [None] * slots  # None: the slot is idle
        self._placement = placement
        self._elsewhere = elsewhere
        self._decode_times = DecodeTimes()
        self._shares = ClientShares(weight_of)
        self._model_shares = ModelShares()
        self._waiting: dict[Lane, _Waiting] = {}
        self._places = ClientPlaces()  # of all requests that wait
        self._large_places = ClientPlaces()  # of large images that wait for a decoder or are on one

    @property
    def waiting(self) -> int:
        """Return how many requests are admitted but not dispatched."""
        return self._places.taken

    def open(self, lane: Lane) -> None:
        """Admit requests to a new lane."""
        self._waiting[lane] = _Waiting()

    def close(self, lane: Lane) -> None:
        """Forget a lane that is idle."""
        del self._waiting[lane]

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
        predicted_s = self._predict_s(arrival, now, placement)
        typical_s = self._decode_times.typical_s(arrival.cost, now)
        return Admitted(predicted_s, typical_s, work_s, backlog.own_slot_decode_s, placement)

    def add(self, ticket: Ticket) -> None:
        """Count a ticket as waiting: for a large decoder, or otherwise for the engine."""
        ticket.queued = True
        self._places.add(ticket.client)
        if self._is_large(ticket):
            self._large_places.add(ticket.client)
        else:
            waiting = self._waiting[ticket.lane]
            waiting.keys.add(ticket)
            waiting.slot_decode_s += ticket.slot_decode_s

    def remove(self, ticket: Ticket) -> None:
        """Stop counting a ticket as waiting."""
        ticket.queued = False
        self._places.remove(ticket.client)
        if self._is_large(ticket):
            self._large_places.remove(ticket.client)
        else:
            waiting = self._waiting[ticket.lane]
            waiting.keys.discard(ticket)
            waiting.slot_decode_s = max(0.0, waiting.slot_decode_s - ticket.slot_decode_s)

    def charge(self, ticket: Ticket) -> None:
        """Count a ticket's work against its client and its model."""
        ticket.lane.tickets += 1
        if not ticket.work_s:
            return  # another process has admitted it, and counts its work
        self._shares.add(ticket.client, ticket.work_s)
        self._model_shares.add(ticket.lane.model, ticket.work_s)

    def discharge(self, ticket: Ticket) -> None:
        """Stop counting a ticket's work. Later calls have no effect."""
        if not ticket.released:
            ticket.released = True
            ticket.lane.tickets -= 1
            if not ticket.work_s:
                return
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

    def _predict_s(self, arrival: Arrival, now: float, placement: Placement) -> float:
        """Return how long an arrival usually takes, without a margin."""
        lane = arrival.lane
        decode_s = self._decode_times.typical_s(arrival.cost, now)
        if lane.all_cores_engine is not None and not self.waiting and not any(self.running):
            return lane.latency.single_image_s + decode_s
        expected = self._backlog(arrival, now, placement, decode_s, typical=True)
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
        own = self._waiting[arrival.lane]
        return Backlog(
            slots_free_in_s=_free_in_s(self.running, now, typical=typical)
            if self._elsewhere is None
            else self._elsewhere.free_in_s(now, typical=typical),
            waiting=self.waiting,
            ahead=self._ahead(arrival.lane, arrival),
            slot_decode_s=own.decode_s_each,
            own_slot_decode_s=decoding.on_slot_s,
            decoders_free_in_s=decoding.decoders_free_in_s,
            own_decode_s=decoding.on_decoder_s,
            other_lanes_s=self._other_lanes_s(arrival, typical=typical)
            if len(self._waiting) > 1
            else 0.0,
        )

    def _ahead(self, lane: Lane, arrival: Arrival) -> int:
        """Return how many requests of a lane run before an arrival."""
        here = self._waiting[lane].keys.before(arrival.priority, arrival.deadline)
        if self._elsewhere is None:
            return here
        return here + self._elsewhere.ahead(lane, arrival.priority)

    def publish(self, now: float) -> EngineLoad:
        """Return what runs and waits, for the other processes that admit."""
        return EngineLoad(
            tuple(now + left for left in _free_in_s(self.running, now, typical=False)),
            tuple(now + left for left in _free_in_s(self.running, now, typical=True)),
            {lane: waiting.keys.by_class() for lane, waiting in self._waiting.items()},
        )

    def _other_lanes_s(self, arrival: Arrival, *, typical: bool) -> float:
        """Return the slot time, per slot, of other lanes' requests that run before an arrival."""
        seconds = 0.0
        for lane, waiting in self._waiting.items():
            images = 0 if lane is arrival.lane else self._ahead(lane, arrival)
            if images:
                latency, largest = _latency(lane, typical=typical), lane.limits.max_batch_size
                full, rest = divmod(images, largest)
                seconds += full * latency.predict(largest) + images * waiting.decode_s_each
                seconds += latency.predict(rest) if rest else 0.0
        return seconds / len(self.running)


def _latency(lane: Lane, *, typical: bool) -> Latency:
    return lane.latency.typical if typical else lane.latency


def _free_in_s(running: Sequence[Running | None], now: float, *, typical: bool) -> list[float]:
    """Return the seconds until each slot is free; 0 for an idle slot."""
    free_in_s = []
    for batch in running:
        left = 0.0
        if batch is not None:
            latency = _latency(batch.lane, typical=typical)
            left = batch.started + latency.predict(batch.images) + batch.decode_s - now
            # An overdue batch still runs: assume that it takes one more image's time.
            left = left if left >= 0 else latency.unloaded_s
        free_in_s.append(left)
    return free_in_s
