"""Admit requests and have their images decoded: what comes before the engine.

`Scheduler` runs the engine in this process, `Remote` has it run in another one.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

from tidegate.service.batching.admission import Admission, Admitted, Arrival
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.placement import DecodePlacement
from tidegate.service.batching.policy import Refusal, haste
from tidegate.service.batching.slots import Decode, Image
from tidegate.service.batching.tickets import Answer, Ticket
from tidegate.service.errors import DeadlineMissed, Draining, Overloaded, ServiceError
from tidegate.service.metrics import Metrics
from tidegate.service.types import Pixels, Priority

_NO_COST = DecodeCost()


class Admitting(ABC):
    """Admits requests and starts decoding. Used on the event loop."""

    def __init__(
        self,
        admission: Admission,
        placement: DecodePlacement,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.draining = False
        self._metrics = metrics
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._placement = placement
        self._arrivals = itertools.count()
        # Guards the admission, ℓ and Ticket.queued, because slots' threads form batches too.
        self._lock = threading.Lock()
        self._admission = admission

    @property
    def waiting(self) -> int:
        """Return how many requests are admitted but not dispatched."""
        return self._admission.waiting

    def admit(
        self,
        lane: Lane,
        deadline: float,
        priority: Priority,
        cost: DecodeCost = _NO_COST,
        client: str = "",
        received: float | None = None,
    ) -> Ticket:
        """Admit an arrival to a lane, before it is decoded; `deadline` is on the scheduler's clock.

        Its time limit counts from `received`, on the same clock, or from now. `cost` comes from the
        image's header; `client` is the sender's key or address. Raises Draining, Overloaded with
        the seconds after which to retry, or DeadlineMissed if the deadline could not be met even
        without load. Every ticket must be released with `leave`.
        """
        if self.draining:
            self._metrics.shed("draining")
            raise Draining("The service is shutting down.")
        with self._lock:
            now = self._clock()
            limit_s = deadline - (now if received is None else received)
            arrival = Arrival(lane, deadline, priority, cost, client, haste(limit_s))
            decided = self._admission.decide(arrival, now)
            if isinstance(decided, Admitted):
                return self._issue(arrival, decided)
        self._metrics.shed(decided.reason)
        raise _refused(decided, 1000 * (deadline - now), lane)

    def run(self, ticket: Ticket, decode: Decode) -> asyncio.Future[Answer]:
        """Queue a ticket's image for decoding, then for the engine.

        The future returns the answer, or raises what `decode` raised, DeadlineMissed, Overloaded
        if the device lacks memory, or EngineFailed.
        """
        ticket.job = ticket.placement.start(
            ticket,
            decode,
            submit=partial(self.submit, ticket),
            decoded=partial(self._decoded, ticket),
            typical_s=ticket.typical_decode_s,
        )
        return ticket.answer

    @abstractmethod
    def submit(self, ticket: Ticket, image: Image) -> asyncio.Future[Answer]:
        """Queue a ticket's image for the engine; return the same future as `run`."""

    @abstractmethod
    def leave(self, ticket: Ticket) -> object:
        """Release a ticket in any state: answered, failed, or abandoned by its client."""

    def _issue(self, arrival: Arrival, admitted: Admitted) -> Ticket:
        """Create the ticket of an admitted arrival. The caller holds the lock."""
        ticket = Ticket(
            arrival.priority,
            arrival.deadline,
            next(self._arrivals),
            lane=arrival.lane,
            answer=self._loop.create_future(),
            predicted_s=admitted.predicted_s,
            cost=arrival.cost,
            client=arrival.client,
            work_s=admitted.work_s,
            typical_decode_s=admitted.typical_decode_s,
            placement=admitted.placement,
            slot_decode_s=admitted.slot_decode_s,
            haste=arrival.haste,
            turn=admitted.turn,
        )
        self._admission.charge(ticket)
        self._admission.add(ticket)
        return ticket

    def _decoded(self, ticket: Ticket, result: Pixels | Exception, decode_s: float) -> None:
        if ticket.job is not None:
            ticket.decode_at = ticket.job.started
        ticket.job = None
        with self._lock:
            if not isinstance(result, Exception):
                self._admission.observe_decode(ticket.cost, decode_s, self._clock())
            if not ticket.queued or ticket.answer.done():
                return  # the request left or its deadline passed while its image was decoded
            self._admission.remove(ticket)
            ticket.decode_s = decode_s
            if not isinstance(result, Exception):
                ticket.placement = self._placement.slot  # it now waits only for a slot
                self._admission.add(ticket)
        if isinstance(result, Exception):
            ticket.answer.set_exception(result)
        else:
            self.submit(ticket, result)


def _refused(refusal: Refusal, left_ms: float, lane: Lane) -> ServiceError:
    if refusal.retry_after_s is not None:
        return Overloaded(
            f"Queue too long to answer within {left_ms:.0f} ms.",
            refusal.retry_after_s,
            refusal.reason,
        )
    if left_ms <= 0:
        return DeadlineMissed("The deadline has already passed.", refusal.reason)
    return DeadlineMissed(
        f"The deadline is {left_ms:.0f} ms from now, but one image takes "
        f"{1000 * lane.latency.unloaded_s:.1f} ms on an idle engine.",
        refusal.reason,
    )
