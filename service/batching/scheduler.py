"""The shell around the policy: clocks, slots and futures.

A ticket is one admitted request. It is waiting for its pixels, ready, running, or done, and it gets
exactly one outcome, on the event loop. A slot that finishes a batch takes the next one itself, on
its own thread: asking the loop would leave it idle until the loop has its turn on a busy core.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from tidegate.service.batching.admission import Admission, Admitted, Arrival
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.dispatch import Dispatch
from tidegate.service.batching.isolate import DeviceFault
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.placement import DecodePlacement
from tidegate.service.batching.policy import (
    Limits,
    Refusal,
)
from tidegate.service.batching.slots import Batch, BatchResult, Decode, Image, Slot
from tidegate.service.batching.tickets import Answer, Ticket
from tidegate.service.batching.watchdog import Watchdog
from tidegate.service.engines.base import Engine
from tidegate.service.engines.faults import Fault, fault_of
from tidegate.service.errors import DeadlineMissed, Draining, EngineFailed, Overloaded, ServiceError
from tidegate.service.metrics import Metrics
from tidegate.service.types import Pixels, Priority

log = logging.getLogger(__name__)


_NO_COST = DecodeCost()


class Scheduler:
    """Admits requests, forms batches for idle slots, and learns how long they take."""

    def __init__(
        self,
        engine: Engine,
        latency: LatencyModel,
        limits: Limits,
        *,
        all_cores_engine: Engine | None = None,
        placement: DecodePlacement,
        engine_timeout_s: float,
        metrics: Metrics,
        on_failure: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start a thread per slot. `on_failure` is called on the loop, with the reason, when a
        batch outlasts `engine_timeout_s`, a device is lost or a slot's thread dies.

        An image that is alone runs on `wide`, one slot on all cores, if there is one.
        Without `decoders` a slot's thread decodes what it runs: if the engine runs on the same
        cores, that spares a hand-over, and pixels are still in the cache when they are used.
        Large images are decoded by `large_decoders`, so that the others need not wait for them.
        """
        self.latency = latency
        self.draining = False
        self._metrics = metrics
        self._on_failure = on_failure
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._placement = placement
        self._arrivals = itertools.count()
        # Guards what follows, ℓ, and whether a ticket is queued: slots' threads take batches.
        self._lock = threading.Lock()
        self._closed = False
        self._admission = Admission(
            latency,
            engine.slots,
            placement,
            has_single_image_engine=all_cores_engine is not None,
        )
        self._slots = [
            Slot(index, engine, core, on_death=self._fail_from_thread)
            for index, core in enumerate(placement.cores_of(engine.slots))
        ]
        self._dispatch = Dispatch(
            self._slots,
            engine,
            all_cores_engine,
            self._admission,
            latency,
            limits,
            finish=self._finish,
            top_up=self._top_up if placement.keeps_engine_free else None,
            clock=clock,
        )
        self._watchdog = Watchdog(self._slots, engine_timeout_s, on_failure)

    @property
    def limits(self) -> Limits:
        """Return the bounds; a device that is short of memory lowers them."""
        return self._dispatch.limits

    @property
    def waiting(self) -> int:
        """Return how many requests are admitted and not dispatched."""
        return self._admission.waiting

    def admit(
        self,
        deadline: float,
        priority: Priority,
        cost: DecodeCost = _NO_COST,
        client: str = "",
    ) -> Ticket:
        """Admit an arrival, before it is decoded; `deadline` is on the scheduler's clock.

        `cost` is read from the image's header; `client` is the address that sent it.
        Raises Draining, Overloaded with the seconds after which to come back, or DeadlineMissed
        when no load would have let it be met. Every ticket must be given back with `leave`.
        """
        if self.draining:
            self._metrics.shed("draining")
            raise Draining("The service is shutting down.")
        arrival = Arrival(deadline, priority, cost, client)
        with self._lock:
            now = self._clock()
            decided = self._admission.decide(arrival, now, self.limits)
            if isinstance(decided, Admitted):
                return self._issue(arrival, decided)
        self._metrics.shed(decided.reason)
        raise self._refused(decided, 1000 * (deadline - now))

    def run(self, ticket: Ticket, decode: Decode) -> asyncio.Future[Answer]:
        """Decode a ticket's image and run it, each when it is its turn.

        The future gives the answer, what `decode` raised, DeadlineMissed or EngineFailed.
        """
        ticket.job = ticket.placement.start(
            ticket,
            decode,
            submit=partial(self.submit, ticket),
            decoded=partial(self._decoded, ticket),
            predicted_s=ticket.predicted_decode_s,
        )
        return ticket.answer

    def submit(self, ticket: Ticket, image: Image) -> asyncio.Future[Answer]:
        """Queue a ticket's image for the engine; the future gives the answer or the error."""
        ticket.image, ticket.ready_at = image, self._clock()
        with self._lock:
            self._dispatch.add(ticket)
            dispatched = self._dispatch.fill_idle_slots()
            for slot, batch in dispatched.batches:
                slot.run(batch)
        self._drop_late(dispatched.late)
        return ticket.answer

    def leave(self, ticket: Ticket) -> None:
        """Forget a ticket, whatever its state: answered, failed, or its client has gone."""
        with self._lock:
            if ticket.queued:
                self._admission.remove(ticket)
                if ticket.image is not None:
                    self._dispatch.remove(ticket)
                elif ticket.job is not None:
                    ticket.placement.withdraw(ticket.job)
            ticket.image = ticket.job = None
            self._admission.discharge(ticket)
        if not ticket.answer.done():
            ticket.answer.cancel()

    def close(self, timeout_s: float) -> bool:
        """Stop the slots' threads after what they run; False when one did not end in time."""
        self.draining = True
        with self._lock:
            self._closed = True
        self._watchdog.stop()
        deadline = time.monotonic() + timeout_s
        for slot in self._slots:
            slot.stop()
        ended = [slot.join(deadline - time.monotonic()) for slot in self._slots]
        return all(ended)

    def _issue(self, arrival: Arrival, admitted: Admitted) -> Ticket:
        """Return the ticket of an arrival that is admitted. Needs the lock."""
        ticket = Ticket(
            arrival.priority,
            arrival.deadline,
            next(self._arrivals),
            answer=self._loop.create_future(),
            predicted_s=admitted.predicted_s,
            cost=arrival.cost,
            client=arrival.client,
            work_s=admitted.work_s,
            predicted_decode_s=admitted.decode_s,
            placement=admitted.placement,
            slot_decode_s=admitted.slot_decode_s,
        )
        self._admission.charge(ticket)
        self._admission.add(ticket)
        return ticket

    def _refused(self, refusal: Refusal, left_ms: float) -> ServiceError:
        if refusal.retry_after_s is not None:
            return Overloaded(
                f"Queue too long to answer within {left_ms:.0f} ms.", refusal.retry_after_s
            )
        if left_ms <= 0:
            return DeadlineMissed("The deadline has already passed.")
        return DeadlineMissed(
            f"The deadline, {left_ms:.0f} ms from now, is shorter than one image takes "
            f"on an idle engine ({1000 * self.latency.unloaded_s:.1f} ms)."
        )

    def _decoded(self, ticket: Ticket, result: Pixels | Exception, decode_s: float) -> None:
        ticket.job = None
        with self._lock:
            if not isinstance(result, Exception):
                self._admission.observe_decode(ticket.cost, decode_s, self._clock())
            if not ticket.queued or ticket.answer.done():
                return  # it left, or its deadline passed, while its image was on a decoder
            self._admission.remove(ticket)
            ticket.decode_s = decode_s
            if not isinstance(result, Exception):
                ticket.placement = self._placement.slot  # from now on it waits only for a slot
                self._admission.add(ticket)
        if isinstance(result, Exception):
            ticket.answer.set_exception(result)
        else:
            self.submit(ticket, result)

    def _top_up(self, slot: Slot, tickets: list[Ticket], room: int) -> list[Pixels]:
        """Add to a slot's batch what has become ready. On the slot's thread."""
        with self._lock:
            added, late = ([], []) if self._closed else self._dispatch.grow(slot, tickets, room)
        if late:
            self._loop.call_soon_threadsafe(self._drop_late, late)
        return added

    def _drop_late(self, late: Sequence[Ticket]) -> None:
        for ticket in late:
            self._metrics.shed("early-drop")
            if not ticket.answer.done():
                ticket.answer.set_exception(DeadlineMissed("The deadline could no longer be met."))

    def _finish(
        self, slot: Slot, batch: Sequence[Ticket], alone: bool, result: BatchResult
    ) -> Batch | None:
        """Take the next batch; then have this one answered. On the slot's thread."""
        with self._lock:
            if result.clean and alone:
                self.latency.observe_single_image(result.engine_s)
            elif result.clean:
                self.latency.observe(result.ran, result.engine_s)
            self._learn_decoding(batch, result)
            self._learn_from(slot, result.device_fault)
            following, late = (None, []) if self._closed else self._dispatch.next_batch(slot)
        self._loop.call_soon_threadsafe(self._tell, batch, result, late)
        return following

    def _learn_decoding(self, batch: Sequence[Ticket], result: BatchResult) -> None:
        """Learn from the images that a slot decoded; a failed decode says nothing."""
        now = self._clock()
        for index, ticket in enumerate(batch):
            if result.decode_s[index] and index not in result.undecoded:
                self._admission.observe_decode(ticket.cost, result.decode_s[index], now)

    def _learn_from(self, slot: Slot, device_fault: DeviceFault) -> None:
        """Give up on a device that is lost; ask less of one that is short of memory."""
        if device_fault.lost:
            self._closed = True
            reason = f"slot {slot.index} lost its device: {device_fault.lost}"
            self._loop.call_soon_threadsafe(self._on_failure, reason)
            return
        fits = device_fault.largest_batch
        if fits is not None and fits < self.limits.max_batch_size:
            self._dispatch.limits = replace(self.limits, max_batch_size=fits)
            log.warning("device memory low: limiting batches to %d", fits)

    def _tell(self, batch: Sequence[Ticket], result: BatchResult, late: Sequence[Ticket]) -> None:
        self._metrics.batch_size.observe(len(batch))
        self._metrics.batch_parts(result.parts_s)
        self._metrics.slot_busy.inc(result.engine_s + sum(result.decode_s))
        self._drop_late(late)
        for index, ticket in enumerate(batch):
            ticket.decode_s = ticket.decode_s or result.decode_s[index]
            if ticket.answer.done():
                continue  # its client has gone or its deadline has passed
            row = result.rows[index]
            if isinstance(row, Exception):
                undecoded = index in result.undecoded
                ticket.answer.set_exception(row if undecoded else self._failure(row))
            else:
                queue_s = ticket.dispatched_at - ticket.ready_at
                ticket.answer.set_result(
                    Answer(row, ticket.decode_s, queue_s, result.engine_s, result.ran)
                )

    def _failure(self, error: Exception) -> ServiceError:
        """Return what to tell of an image that the engine did not compute."""
        if fault_of(error) is Fault.MEMORY:
            self._metrics.shed("device-memory")
            return Overloaded("The device has no memory left to compute this image.", 1.0)
        return EngineFailed("The engine could not compute this image.")

    def _fail_from_thread(self, reason: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: the process is ending
            self._loop.call_soon_threadsafe(self._on_failure, reason)
