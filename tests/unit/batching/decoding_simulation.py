"""Simulate admission before decoders in virtual time, with the service's own policy.

Decoders are the bottleneck: Poisson arrivals, log-normal decode times, and an engine that is fast
enough. A request leaves at its deadline, wherever it is.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from tests.fakes import FakeEngine
from tidegate.service.batching.admission import Admission, Admitted, Arrival
from tidegate.service.batching.decode_queue import DecodeQueue, Job
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.decoders import Decoders
from tidegate.service.batching.engine_load import Running
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.placement import DecodePlacement
from tidegate.service.batching.policy import Limits, form_batch
from tidegate.service.batching.queue import FairQueue
from tidegate.service.batching.tickets import Ticket
from tidegate.service.types import Priority

BUCKETS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class DecodingWorld:
    """The offered load and the decoders before a fast engine. Times in seconds."""

    load: float  # of the decoders' capacity
    deadline_s: float
    variation: float  # coefficient of variation of the decode times
    images: int = 3_000
    workers: int = 16
    decode_s: float = 0.001
    slots: int = 3
    fixed_s: float = 0.0003
    per_image_s: float = 0.000013
    seed: int = 7

    @property
    def capacity(self) -> float:
        return self.workers / self.decode_s

    def batch_s(self, images: int) -> float:
        return self.fixed_s + self.per_image_s * images


class _VirtualDecoders:
    """Takes the place of `Decoders`: the same queue, and the simulation's clock."""

    def __init__(self, workers: int, clock: Callable[[], float]) -> None:
        self.workers = workers
        self.queue = DecodeQueue(workers)
        self._clock = clock

    def free_in_s(self, priority: Priority, deadline: float, *, typical: bool = False) -> float:
        return self.queue.free_in_s(priority, deadline, self._clock(), typical=typical)

    def delays(self, priority: Priority, deadline: float, typical_s: float) -> bool:
        return self.queue.delays(priority, deadline, self._clock(), typical_s)


class _Run:
    def __init__(self, world: DecodingWorld) -> None:
        self.outcomes: Counter[str] = Counter()
        self._world = world
        self._now = 0.0
        self._decoders = _VirtualDecoders(world.workers, lambda: self._now)
        placement = DecodePlacement(cast(Decoders, self._decoders), None)
        self._slot = placement.slot
        self._admission = Admission(world.slots, placement)
        latency = LatencyModel({size: world.batch_s(size) for size in BUCKETS})
        self._lane = Lane(FakeEngine(slots=world.slots), latency, Limits(BUCKETS[-1], 10**9))
        self._admission.open(self._lane)
        self._ready: FairQueue[Ticket] = FairQueue()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        rng = np.random.default_rng(world.seed)
        rate = world.load * world.capacity
        self._arrivals = np.cumsum(rng.exponential(1 / rate, world.images)).tolist()
        sigma = np.sqrt(np.log1p(world.variation**2))
        drawn = rng.lognormal(-(sigma**2) / 2, sigma, world.images)
        self._decode_s = (world.decode_s * drawn).tolist()

    def play(self) -> Counter[str]:
        for index, at in enumerate(self._arrivals):
            self._at(at, lambda index=index: self._arrive(index))  # type: ignore[misc]
        while self._events:
            self._now, _, event = heapq.heappop(self._events)
            event()
        return self.outcomes

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _arrive(self, index: int) -> None:
        cost = DecodeCost("JPEG", self._world.decode_s)
        deadline = self._now + self._world.deadline_s
        arrival = Arrival(self._lane, deadline, Priority.INTERACTIVE, cost, "")
        decided = self._admission.decide(arrival, self._now)
        if not isinstance(decided, Admitted):
            self.outcomes["refused"] += 1
            return
        ticket = Ticket(
            arrival.priority,
            deadline,
            index,
            lane=self._lane,
            answer=cast(Any, None),
            predicted_s=decided.predicted_s,
            cost=cost,
            client="",
            work_s=decided.work_s,
            typical_decode_s=decided.typical_decode_s,
            placement=decided.placement,
        )
        self._admission.add(ticket)
        ticket.job = Job(
            ticket.priority,
            deadline,
            index,
            lambda: None,
            lambda _, seconds: self._decoded(ticket, seconds),
            ticket.typical_decode_s,
            work_s=ticket.work_s,
        )
        self._at(deadline, lambda: self._leave(ticket))
        if self._decoders.queue.add(ticket.job):
            self._start(ticket.job)

    def _start(self, job: Job) -> None:
        job.started = self._now
        seconds = self._decode_s[job.arrival]
        self._at(self._now + seconds, lambda: self._finish(job, seconds))

    def _finish(self, job: Job, seconds: float) -> None:
        if (following := self._decoders.queue.finish(job, self._now)) is not None:
            self._start(following)
        job.done(None, seconds)

    def _decoded(self, ticket: Ticket, seconds: float) -> None:
        self._admission.observe_decode(ticket.cost, seconds, self._now)
        ticket.job = None
        if not ticket.queued:
            self.outcomes["decoded for nothing"] += 1
            return
        ticket.image = cast(Any, ())
        self._ready.insert(ticket)
        self._dispatch()

    def _leave(self, ticket: Ticket) -> None:
        if not ticket.queued:
            return
        self._admission.remove(ticket)
        self.outcomes["missed"] += 1
        if ticket.image is not None:
            self._ready.remove(ticket)
        elif ticket.job is not None:
            with suppress(KeyError):  # it runs
                self._decoders.queue.withdraw(ticket.job)

    def _dispatch(self) -> None:
        for slot, running in enumerate(self._admission.load.running):
            if running is not None or not len(self._ready):
                continue
            latency, most = self._lane.latency, self._lane.limits.max_batch_size
            plan = form_batch(self._now, self._ready.take(()), len(self._ready), latency, most)
            for ticket in (*plan.shed, *plan.dispatch):
                self._admission.remove(ticket)
            self.outcomes["missed"] += len(plan.shed)
            if plan.dispatch:
                size = len(plan.dispatch)
                self._admission.load.running[slot] = Running(self._lane, self._now, size, 0.0)
                took_s = self._world.batch_s(size)
                self._at(self._now + took_s, lambda s=slot, p=plan: self._end(s, p.dispatch))  # type: ignore[misc]

    def _end(self, slot: int, batch: list[Ticket]) -> None:
        self._admission.load.running[slot] = None
        for ticket in batch:
            self.outcomes["in time" if self._now <= ticket.deadline else "missed"] += 1
        self._dispatch()


def goodput(world: DecodingWorld) -> tuple[float, Counter[str]]:
    """Return the answers in time as a share of the decoders' capacity, and all outcomes."""
    run = _Run(world)
    outcomes = run.play()
    return outcomes["in time"] / (run._arrivals[-1] * world.capacity), outcomes
