"""The scheduler: applies the policy with a real clock, threads and futures.

A ticket is one admitted request. It waits for its pixels, is ready, runs or is done, and it gets
exactly one outcome, on the event loop. A slot that finishes a batch takes the next one on its own
thread. If the event loop assigned batches, the slot would be idle until the loop gets a core.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from tidegate.service.batching.admission import Admission, Admitted, Arrival
from tidegate.service.batching.client_shares import equal_weight
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.dispatch import Dispatch
from tidegate.service.batching.idle_work import IdleWork
from tidegate.service.batching.isolate import DeviceFault
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.placement import DecodePlacement
from tidegate.service.batching.policy import Refusal
from tidegate.service.batching.slots import Batch, BatchResult, Decode, Image, Slot
from tidegate.service.batching.tickets import Answer, Ticket
from tidegate.service.batching.watchdog import Watchdog
from tidegate.service.engines.faults import Fault, fault_of
from tidegate.service.errors import DeadlineMissed, Draining, EngineFailed, Overloaded, ServiceError
from tidegate.service.metrics import Metrics
from tidegate.service.progress import BatchRun
from tidegate.service.types import Pixels, Priority

log = logging.getLogger(__name__)


_NO_COST = DecodeCost()


class Scheduler:
    """Admits requests, forms batches for idle slots, and learns how long batches take."""

    def __init__(
        self,
        lane: Lane,
        *,
        placement: DecodePlacement,
        engine_timeout_s: float,
        metrics: Metrics,
        on_failure: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        weight_of: Callable[[str], float] = equal_weight,
    ) -> None:
        """Start one thread per slot of the first lane's engine, for all lanes.

        `on_failure` is called on the loop, with the reason, if a batch takes longer than
        `engine_timeout_s`, a device is lost or a slot's thread dies. `placement` chooses where
        images are decoded, `weight_of` returns a client's weight in the shares of the queue.
        """
        self.slots = slots = lane.engine.slots
        self.draining = False
        self._metrics = metrics
        self._on_failure = on_failure
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._placement = placement
        self._arrivals = itertools.count()
        # Guards the fields below, ℓ and Ticket.queued, because slots' threads form batches too.
        self._lock = threading.Lock()
        self._closed = False
        self._admission = Admission(slots, placement, weight_of)
        self._slots = [
            Slot(index, core, on_death=self._fail_from_thread)
            for index, core in enumerate(placement.cores_of(slots))
        ]
        self._dispatch = Dispatch(
            self._slots,
            [lane.engine.device_of(index) for index in range(slots)],
            self._admission,
            finish=self._finish,
            finish_idle_work=self._finish_idle_work,
            top_up=self._top_up if placement.keeps_engine_free else None,
            clock=clock,
        )
        self._watchdog = Watchdog(self._slots, engine_timeout_s, on_failure)
        self.open_lane(lane)

    def open_lane(self, lane: Lane) -> None:
        """Admit requests to a lane, whose engine must have as many slots as the first."""
        with self._lock:
            self._admission.open(lane)
            self._dispatch.open(lane)

    def close_lane(self, lane: Lane) -> bool:
        """Forget a lane if nothing waits or runs there; return False otherwise."""
        with self._lock:
            if not lane.is_idle:
                return False
            self._admission.close(lane)
            self._dispatch.close(lane)
            return True

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
    ) -> Ticket:
        """Admit an arrival to a lane, before it is decoded; `deadline` is on the scheduler's clock.

        `cost` comes from the image's header; `client` is the sender's key or address. Raises
        Draining, Overloaded with the seconds after which to retry, or DeadlineMissed if the
        deadline could not be met even without load. Every ticket must be released with `leave`.
        """
        if self.draining:
            self._metrics.shed("draining")
            raise Draining("The service is shutting down.")
        arrival = Arrival(lane, deadline, priority, cost, client)
        with self._lock:
            now = self._clock()
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
            predicted_s=ticket.predicted_decode_s,
        )
        return ticket.answer

    def submit(self, ticket: Ticket, image: Image) -> asyncio.Future[Answer]:
        """Queue a ticket's image for the engine; return the same future as `run`."""
        ticket.image, ticket.ready_at = image, self._clock()
        with self._lock:
            self._dispatch.add(ticket)
            dispatched = self._dispatch.fill_idle_slots()
            for slot, batch in dispatched.batches:
                slot.run(batch)
        self._drop_late(dispatched.late)
        return ticket.answer

    def leave(self, ticket: Ticket) -> None:
        """Release a ticket in any state: answered, failed, or abandoned by its client."""
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

    def when_idle(self, work: IdleWork) -> None:
        """Run a batch once no slot runs anything. `work.done` is called on the event loop."""
        with self._lock:
            self._dispatch.add_idle_work(work)
            dispatched = self._dispatch.fill_idle_slots()
            for slot, batch in dispatched.batches:
                slot.run(batch)
        self._drop_late(dispatched.late)

    def withdraw(self, work: IdleWork) -> bool:
        """Remove work for an idle slot; return False if it has started."""
        with self._lock:
            return self._dispatch.withdraw_idle_work(work)

    def close(self, timeout_s: float) -> bool:
        """Stop the slots' threads after their current batches; return False if one did not end."""
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
            predicted_decode_s=admitted.decode_s,
            placement=admitted.placement,
            slot_decode_s=admitted.slot_decode_s,
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

    def _top_up(self, slot: Slot, tickets: list[Ticket], room: int) -> list[Pixels]:
        """Add newly ready images to a slot's batch. Called on the slot's thread."""
        with self._lock:
            added, late = ([], []) if self._closed else self._dispatch.grow(slot, tickets, room)
        if late:
            self._loop.call_soon_threadsafe(self._drop_late, late)
        return added

    def _drop_late(self, late: Sequence[Ticket]) -> None:
        for ticket in late:
            self._metrics.shed("early-drop")
            if not ticket.answer.done():
                ticket.answer.set_exception(
                    DeadlineMissed("The deadline can no longer be met.", "early-drop")
                )

    def _finish(
        self, slot: Slot, batch: Sequence[Ticket], on_all_cores: bool, result: BatchResult
    ) -> Batch | None:
        """Return the next batch, and answer this one on the loop. Called on the slot's thread."""
        lane = batch[0].lane
        with self._lock:
            lane.batches -= 1
            if result.clean and on_all_cores:
                lane.latency.observe_single_image(result.engine_s)
            elif result.clean:
                lane.latency.observe(result.ran, result.engine_s)
            self._learn_decoding(batch, result)
            self._handle_device_fault(slot, lane, result.device_fault)
            following, late = (None, []) if self._closed else self._dispatch.next_batch(slot)
        self._loop.call_soon_threadsafe(self._resolve, batch, result, late)
        return following

    def _finish_idle_work(self, slot: Slot, work: IdleWork, result: BatchResult) -> Batch | None:
        """Return the next batch, and report the work's result. Called on the slot's thread."""
        with self._lock:
            work.lane.batches -= 1
            if result.device_fault.lost:
                self._handle_device_fault(slot, work.lane, result.device_fault)
            following, late = (None, []) if self._closed else self._dispatch.next_batch(slot)
        self._loop.call_soon_threadsafe(work.done, result)
        if late:
            self._loop.call_soon_threadsafe(self._drop_late, late)
        return following

    def _learn_decoding(self, batch: Sequence[Ticket], result: BatchResult) -> None:
        """Learn from the images that a slot decoded successfully."""
        now = self._clock()
        for index, ticket in enumerate(batch):
            if result.decode_s[index] and index not in result.undecoded:
                self._admission.observe_decode(ticket.cost, result.decode_s[index], now)

    def _handle_device_fault(self, slot: Slot, lane: Lane, device_fault: DeviceFault) -> None:
        """Stop if a device is lost; reduce the batch size if one is low on memory."""
        if device_fault.lost:
            self._closed = True
            reason = f"slot {slot.index} lost its device: {device_fault.lost}"
            self._loop.call_soon_threadsafe(self._on_failure, reason)
            return
        largest = device_fault.largest_batch
        if largest is not None and largest < lane.limits.max_batch_size:
            lane.limit_batches(largest)
            log.warning("device memory low: limiting batches to %d", largest)

    def _resolve(
        self, batch: Sequence[Ticket], result: BatchResult, late: Sequence[Ticket]
    ) -> None:
        """Record a batch's metrics and resolve the futures of its tickets. On the event loop."""
        self._metrics.batch_size.observe(len(batch))
        batch[0].lane.statistics.run(result.ran, result.engine_s)
        self._metrics.batch_parts(result.parts_s)
        self._metrics.slot_busy.inc(result.engine_s + sum(result.decode_s))
        self._drop_late(late)
        run = BatchRun(result.engine_at, result.engine_s, result.ran)
        for index, ticket in enumerate(batch):
            ticket.decode_at = ticket.decode_at or result.decode_at[index]
            ticket.decode_s = ticket.decode_s or result.decode_s[index]
            ticket.run = None if index in result.undecoded else run
            if ticket.answer.done():
                continue  # the request left or its deadline passed
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
        """Return the error for the client of an image that the engine did not compute."""
        if fault_of(error) is Fault.MEMORY:
            self._metrics.shed("device-memory")
            return Overloaded(
                "The device does not have enough memory to compute this image.",
                1.0,
                "device-memory",
            )
        return EngineFailed("The engine could not compute this image.")

    def _fail_from_thread(self, reason: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is exiting
            self._loop.call_soon_threadsafe(self._on_failure, reason)


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
