"""The shell around the policy: clocks, slots and futures.

A ticket is one admitted request. It is waiting for its pixels, ready, running, or done, and it gets
exactly one outcome, on the event loop. A slot that finishes a batch takes the next one itself, on
its own thread: asking the loop would leave it idle until the loop has its turn on a busy core.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from service.batching.decoders import Decoders
from service.batching.isolate import Trouble
from service.batching.latency import LatencyModel, RunningMean, WithDecoding
from service.batching.policy import (
    Backlog,
    Latency,
    Limits,
    Plan,
    eta_s,
    plan,
    refuse,
    share,
)
from service.batching.queue import Order, OrderedQueue
from service.batching.slots import Batch, BatchResult, Decode, Image, Slot
from service.batching.threads import cores_for
from service.batching.tickets import Answer, Ticket
from service.engines.base import Engine
from service.engines.faults import Fault, fault_of
from service.errors import DeadlineMissed, Draining, EngineFailed, Overloaded, ServiceError
from service.metrics import Metrics
from service.types import Pixels, Priority

log = logging.getLogger(__name__)


class Scheduler:
    """Admits requests, forms batches for idle slots, and learns how long they take."""

    def __init__(
        self,
        engine: Engine,
        latency: LatencyModel,
        limits: Limits,
        *,
        wide: Engine | None = None,
        decoders: Decoders | None,
        decode_seed_s: float = 0.0,
        engine_timeout_s: float,
        metrics: Metrics,
        on_wedged: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start a thread per slot. `on_wedged` is told when a batch outlasts `engine_timeout_s`.

        An image that is alone runs on `wide`, one slot on all cores, where there is one.
        Without `decoders` a slot's thread decodes what it runs: where the engine runs on the same
        cores, that spares a hand-over, and pixels are still in the cache when they are used.
        `decode_seed_s` is then a first guess at one image.
        """
        self.latency = latency
        self._decode_mean = RunningMean(decode_seed_s)
        self._cautious: Latency = latency
        self._typical: Latency = latency.typical
        if decoders is None:
            self._cautious = WithDecoding(latency, self._decode_mean)
            self._typical = WithDecoding(latency.typical, self._decode_mean)
        self.limits = limits
        self.draining = False
        self._engine_timeout_s = engine_timeout_s
        self._metrics = metrics
        self._on_wedged = on_wedged
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._decoders = decoders
        self._wide = wide
        self._arrivals = itertools.count()
        # Guards what follows, ℓ, and whether a ticket is queued: slots' threads take batches.
        self._lock = threading.Lock()
        self._closed = False
        self._order = Order()
        self._ready: OrderedQueue[Ticket] = OrderedQueue()
        # Per slot, when its batch began and of how many it is; None when it is idle.
        self._running: list[tuple[float, int] | None] = [None] * engine.slots
        # An engine that computes on our cores keeps each of its slots on one, if that fills them.
        cores = cores_for(engine.slots) if decoders is None else [None] * engine.slots
        self._slots = [Slot(index, engine, core) for index, core in enumerate(cores)]
        self._device_of = [engine.device_of(index) for index in range(engine.slots)]
        self._idle = list(reversed(self._slots))
        self._watchdogs = {
            slot.index: self._loop.call_later(engine_timeout_s, self._watch, slot)
            for slot in self._slots
        }

    @property
    def waiting(self) -> int:
        """Return how many requests are admitted and not dispatched."""
        return len(self._order)

    def admit(self, deadline: float, priority: Priority) -> Ticket:
        """Admit an arrival, before it is decoded; `deadline` is on the scheduler's clock.

        Raises Draining, Overloaded with the seconds after which to come back, or DeadlineMissed
        when no load would have let it be met. Every ticket must be given back with `leave`.
        """
        if self.draining:
            self._metrics.shed("draining")
            raise Draining("The service is shutting down.")
        with self._lock:
            now = self._clock()
            ahead = self._order.before(priority, deadline)
            backlog = self._backlog(now, ahead, self._cautious)
            refusal = refuse(deadline - now, backlog, self._cautious, self.limits)
            if refusal is None:
                predicted_s = self._predict_s(now, ahead)
                answer = self._loop.create_future()
                ticket = Ticket(priority, deadline, next(self._arrivals), answer, predicted_s)
                self._order.add(ticket)
                return ticket
            unloaded_s = self._cautious.unloaded_s
        self._metrics.shed(refusal.reason)
        left_ms = 1000 * (deadline - now)
        if left_ms <= 0:
            raise DeadlineMissed("The deadline had passed before the image could be admitted.")
        if refusal.retry_after_s is None:
            raise DeadlineMissed(
                f"The deadline, {left_ms:.0f} ms from now, is shorter than one image takes "
                f"on an idle engine ({1000 * unloaded_s:.1f} ms)."
            )
        raise Overloaded(
            f"Queue too long to answer within {left_ms:.0f} ms.", refusal.retry_after_s
        )

    def run(self, ticket: Ticket, decode: Decode) -> asyncio.Future[Answer]:
        """Decode a ticket's image and run it, each when it is its turn.

        The future gives the answer, what `decode` raised, DeadlineMissed or EngineFailed.
        """
        if self._decoders is None:
            return self.submit(ticket, decode)
        ticket.job = self._decoders.start(ticket, decode, partial(self._decoded, ticket))
        return ticket.answer

    def submit(self, ticket: Ticket, image: Image) -> asyncio.Future[Answer]:
        """Queue a ticket's image for the engine; the future gives the answer or the error."""
        ticket.image, ticket.ready_at = image, self._clock()
        with self._lock:
            self._ready.insert(ticket)
            while self._idle and len(self._ready):
                slot = self._least_loaded()
                batch, late = self._take(slot)
                self._drop_late(late)
                if batch is not None:
                    slot.run(batch)
        return ticket.answer

    def leave(self, ticket: Ticket) -> None:
        """Forget a ticket, whatever its state: answered, failed, or its client has gone."""
        with self._lock:
            if ticket.queued:
                self._unqueue(ticket)
                if ticket.image is not None:
                    self._ready.remove(ticket)
                elif ticket.job is not None and self._decoders is not None:
                    self._decoders.withdraw(ticket.job)
            ticket.image = ticket.job = None
        if not ticket.answer.done():
            ticket.answer.cancel()

    def close(self, timeout_s: float) -> bool:
        """Stop the slots' threads after what they run; False when one did not end in time."""
        self.draining = True
        with self._lock:
            self._closed = True
        for watchdog in self._watchdogs.values():
            watchdog.cancel()
        deadline = time.monotonic() + timeout_s
        for slot in self._slots:
            slot.stop()
        ended = [slot.join(deadline - time.monotonic()) for slot in self._slots]
        return all(ended)

    def _decoded(self, ticket: Ticket, result: Pixels | Exception, decode_s: float) -> None:
        ticket.job = None
        if not ticket.queued or ticket.answer.done():
            return  # it left, or its deadline passed, while its image was on a decoder
        ticket.decode_s = decode_s
        if isinstance(result, Exception):
            with self._lock:
                self._unqueue(ticket)
            ticket.answer.set_exception(result)
        else:
            self.submit(ticket, result)

    def _predict_s(self, now: float, ahead: int) -> float:
        if self._wide and not len(self._order) and not any(self._running):
            decoding = self._decoders.mean_s if self._decoders else self._decode_mean.value
            return self.latency.alone_s + decoding
        expected = self._backlog(now, ahead, self._typical)
        return eta_s(expected, self._typical, self.limits.max_batch_size)

    def _backlog(self, now: float, ahead: int, latency: Latency) -> Backlog:
        decoders = self._decoders
        return Backlog(
            slots_free_in_s=[_free_in_s(batch, now, latency) for batch in self._running],
            waiting=len(self._order),
            ahead=ahead,
            decoding=decoders.load if decoders else 0,
            decode_s=decoders.mean_s if decoders else 0.0,
            decode_workers=decoders.workers if decoders else 1,
        )

    def _least_loaded(self) -> Slot:
        """Take the idle slot whose device runs the fewest batches. Needs the lock."""
        if len(self._idle) > 1 and self._device_of[-1]:  # there are several devices
            busy = Counter(
                self._device_of[index] for index, ran in enumerate(self._running) if ran is not None
            )
            # Of equals the last: it was used last.
            least = min(reversed(self._idle), key=lambda slot: busy[self._device_of[slot.index]])
            self._idle.remove(least)
            return least
        return self._idle.pop()

    def _take(self, slot: Slot) -> tuple[Batch | None, list[Ticket]]:
        """Form a slot's next batch; without one the slot is idle. Needs the lock.

        Also returns those it drops because they would be late, to be told on the event loop.
        """
        late: list[Ticket] = []
        while len(self._ready):
            now = self._clock()
            together = self._ready.not_overtaken(self.limits.max_batch_size)
            decided = self._plan(now, share(len(self._ready), together, self.limits))
            late += decided.shed
            if tickets := decided.dispatch:
                wide = self._wide if len(tickets) == 1 and not any(self._running) else None
                self._running[slot.index] = now, len(tickets)
                # A device of its own may be busy: then the batch grows until it is its turn.
                more = None if self._decoders is None else partial(self._grow, slot, tickets)
                done = partial(self._finish, slot, tickets, wide is not None)
                return Batch(_images(tickets), done, more, wide), late
        self._running[slot.index] = None
        self._idle.append(slot)
        return None, late

    def _grow(self, slot: Slot, tickets: list[Ticket], room: int) -> list[Pixels]:
        """Fill up a slot's batch with what has become ready. On the slot's thread."""
        with self._lock:
            room = min(room, self.limits.max_batch_size - len(tickets))
            if self._closed or room <= 0 or not len(self._ready):
                return []
            decided = self._plan(self._clock(), room)
            tickets += decided.dispatch
            if running := self._running[slot.index]:
                self._running[slot.index] = running[0], len(tickets)
            # Only what decoders made is waiting beside a device, so these are pixels.
            added = [image for image in _images(decided.dispatch) if not callable(image)]
        if decided.shed:
            self._loop.call_soon_threadsafe(self._drop_late, decided.shed)
        return added

    def _plan(self, now: float, most: int) -> Plan[Ticket]:
        """Decide on the head of what is ready, and take it out. Needs the lock."""
        ready = len(self._ready)
        decided = plan(now, self._ready.take(), ready, self._cautious, most)
        for ticket in (*decided.shed, *decided.dispatch):
            self._unqueue(ticket)
            ticket.dispatched_at = now
        return decided

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
                self.latency.observe_alone(result.engine_s)
            elif result.clean:
                self.latency.observe(result.ran, result.engine_s)
            if self._decoders is None:
                for decode_s in result.decode_s:
                    self._decode_mean.observe(decode_s)
            self._learn_from(slot, result.trouble)
            following, late = (None, []) if self._closed else self._take(slot)
        self._loop.call_soon_threadsafe(self._tell, batch, result, late)
        return following

    def _learn_from(self, slot: Slot, trouble: Trouble) -> None:
        """Give up on a device that is lost; ask less of one that is short of memory."""
        if trouble.lost:
            self._closed = True
            reason = f"slot {slot.index} lost its device: {trouble.lost}"
            self._loop.call_soon_threadsafe(self._on_wedged, reason)
        elif trouble.fits is not None and trouble.fits < self.limits.max_batch_size:
            self.limits = replace(self.limits, max_batch_size=trouble.fits)
            log.warning("the device's memory is short: batches of %d at most", trouble.fits)

    def _tell(self, batch: Sequence[Ticket], result: BatchResult, late: Sequence[Ticket]) -> None:
        self._metrics.batch_size.observe(len(batch))
        self._metrics.batch_parts(result.parts_s)
        self._metrics.slot_busy.inc(result.engine_s + sum(result.decode_s))
        self._drop_late(late)
        for index, ticket in enumerate(batch):
            if self._decoders is None:
                ticket.decode_s = result.decode_s[index]
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

    def _unqueue(self, ticket: Ticket) -> None:
        ticket.queued = False
        self._order.discard(ticket)

    def _watch(self, slot: Slot) -> None:
        """Look again when this slot's engine would have been at one batch for too long."""
        left_s = self._engine_timeout_s - slot.engine_running_s
        if left_s > 0:
            self._watchdogs[slot.index] = self._loop.call_later(left_s, self._watch, slot)
        else:
            timeout = f"{self._engine_timeout_s:g} s"
            self._on_wedged(f"slot {slot.index} has not finished a batch in {timeout}")


def _images(tickets: Sequence[Ticket]) -> list[Image]:
    return [ticket.image for ticket in tickets if ticket.image is not None]


def _free_in_s(batch: tuple[float, int] | None, now: float, latency: Latency) -> float:
    if batch is None:
        return 0.0
    started, images = batch
    left = started + latency.predict(images) - now
    # Overdue is not free: when it will be, nobody knows; not before one more image's time.
    return left if left >= 0 else latency.unloaded_s
