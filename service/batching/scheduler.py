"""The scheduler: applies the policy with a real clock, threads and futures.

A ticket is one admitted request. It waits for its pixels, is ready, runs or is done, and it gets
exactly one outcome, on the event loop. A slot that finishes a batch takes the next one on its own
thread. If the event loop assigned batches, the slot would be idle until the loop gets a core.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from tidegate.service.batching.admission import Admission
from tidegate.service.batching.admitting import Admitting
from tidegate.service.batching.client_shares import equal_weight
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.dispatch import Dispatch
from tidegate.service.batching.engine_load import Published
from tidegate.service.batching.idle_work import IdleWork
from tidegate.service.batching.isolate import DeviceFault
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.placement import DecodePlacement
from tidegate.service.batching.slots import Batch, BatchResult, Image, Slot
from tidegate.service.batching.tickets import Answer, Ticket
from tidegate.service.batching.watchdog import Watchdog
from tidegate.service.engines.faults import Fault, fault_of
from tidegate.service.errors import DeadlineMissed, EngineFailed, Overloaded, ServiceError
from tidegate.service.metrics import Metrics
from tidegate.service.progress import BatchRun
from tidegate.service.types import Pixels, Priority

log = logging.getLogger(__name__)

_NO_COST = DecodeCost(decoded=True)


class Scheduler(Admitting):
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
        super().__init__(Admission(slots, placement, weight_of), placement, metrics, clock)
        self._on_failure = on_failure
        self._closed = False
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

    def ticket(
        self,
        lane: Lane,
        deadline: float,
        priority: Priority,
        answer: asyncio.Future[Answer],
        pixels: Pixels,
        haste: int = 0,
        lead_s: float = 0.0,
    ) -> Ticket:
        """Return a ticket for an image that another process has admitted and decoded; see `take`.

        Of `answer` only `done`, `cancel`, `set_result` and `set_exception` are used. `lead_s` is
        how far the turn is from the one that was dispatched last.
        """
        return Ticket(
            priority,
            deadline,
            next(self._arrivals),
            lane=lane,
            answer=answer,
            predicted_s=0.0,
            cost=_NO_COST,
            client="",
            typical_decode_s=0.0,
            placement=self._placement.slot,
            haste=haste,
            turn=lead_s,
            image=pixels,
            ready_at=self._clock(),
        )

    def take(self, tickets: Iterable[Ticket]) -> None:
        """Queue the images of tickets from `ticket`, together: each slot is woken once."""
        with self._lock:
            for ticket in tickets:
                self._admission.charge(ticket)
                self._admission.add(ticket)
                self._dispatch.add(ticket)
            late = self._run_idle_slots()
        self._drop_late(late)

    def load(self) -> Published:
        """Return what runs and waits, for the processes that admit images for this engine."""
        with self._lock:
            return self._admission.load.publish(self._clock())

    def submit(self, ticket: Ticket, image: Image) -> asyncio.Future[Answer]:
        """Queue a ticket's image for the engine; return the same future as `run`."""
        ticket.image, ticket.ready_at = image, self._clock()
        with self._lock:
            self._dispatch.add(ticket)
            late = self._run_idle_slots()
        self._drop_late(late)
        return ticket.answer

    def leave(self, ticket: Ticket) -> bool:
        """Release a ticket in any state: answered, failed, or abandoned by its client.

        Returns whether its image was still waiting, so that no slot uses it.
        """
        with self._lock:
            waited = ticket.queued
            if waited:
                self._admission.remove(ticket)
                if ticket.image is not None:
                    self._dispatch.remove(ticket)
                elif ticket.job is not None:
                    ticket.placement.withdraw(ticket.job)
            ticket.image = ticket.job = None
            self._admission.discharge(ticket)
        if not ticket.answer.done():
            ticket.answer.cancel()
        return waited

    def when_idle(self, work: IdleWork) -> None:
        """Run a batch once no slot runs anything. `work.done` is called on the event loop."""
        with self._lock:
            self._dispatch.add_idle_work(work)
            late = self._run_idle_slots()
        self._drop_late(late)

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

    def _run_idle_slots(self) -> list[Ticket]:
        """Start batches; return the tickets that would be late. The caller holds the lock."""
        dispatched = self._dispatch.fill_idle_slots()
        for slot, batch in dispatched.batches:
            slot.run(batch)
        return dispatched.late

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
