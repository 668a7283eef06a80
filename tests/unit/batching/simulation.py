"""Simulate the policy in virtual time: Poisson arrivals and engine slots, without threads."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.policy import Backlog, Latency, Limits, Waiting, form_batch, refuse
from tidegate.service.batching.queue import AdmittedKeys, FairQueue
from tidegate.service.types import Priority

BUCKETS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class World:
    """The offered load and the engine that serves it. Times in seconds, the rate in images/s."""

    rate: float
    deadline_s: float
    images: int
    max_batch_size: int = 64
    slots: int = 1
    fixed_s: float = 0.0003
    per_image_s: float = 0.000013
    jitter: float = 0.05
    seed: int = 7
    spread: float = 0.0  # deadlines are uniform in deadline_s · (1 ± spread)
    bulk_share: float = 0.0  # fraction of the arrivals in the bulk class

    def duration(self, size: int, noise: float) -> float:
        return (self.fixed_s + self.per_image_s * size) * (1 + self.jitter * noise)

    @property
    def capacity(self) -> float:
        return self.slots * self.max_batch_size / self.duration(self.max_batch_size, 0.0)


@dataclass
class Tally:
    """The outcomes of all arrivals."""

    in_time: int = 0
    late: int = 0
    refused: int = 0
    dropped: int = 0
    sizes: list[int] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    by_class: Counter[tuple[str, Priority]] = field(default_factory=Counter)
    outcomes_of: Counter[int] = field(default_factory=Counter)  # arrival → number of outcomes
    waited_too_long: int = 0  # images that ran although predicted to be late

    @property
    def outcomes(self) -> int:
        return self.in_time + self.late + self.refused + self.dropped

    def settle(self, request: Waiting, fate: str) -> None:
        setattr(self, fate, getattr(self, fate) + 1)
        self.by_class[fate, request.priority] += 1
        self.outcomes_of[request.arrival] += 1


class _Instant:
    """A latency model that predicts no request to be late, so that none is dropped."""

    unloaded_s = 0.0

    def predict(self, images: int) -> float:
        return -1e9


class Run:
    """One simulation: sends the arrivals of a world through the policy."""

    def __init__(self, world: World, *, admission: bool, early_drop: bool) -> None:
        self.tally = Tally()
        self._world = world
        self._admission = admission
        seeds = {b: world.duration(b, 0.0) for b in BUCKETS if b <= world.max_batch_size}
        self._latency = LatencyModel(seeds)
        self._patience: Latency = self._latency if early_drop else _Instant()
        self._limits = Limits(world.max_batch_size, 10**9)
        self._queue: FairQueue[Waiting] = FairQueue()
        self._keys = AdmittedKeys()
        self._free_at = [0.0] * world.slots
        self._finishing: list[tuple[float, int]] = []  # (when, slot)
        rng = np.random.default_rng(world.seed)
        self._arrivals = np.cumsum(rng.exponential(1 / world.rate, world.images)).tolist()
        self._noise = iter(rng.standard_normal(world.images + 1).tolist())
        stretch = rng.uniform(-world.spread, world.spread, world.images)
        self._deadlines = (world.deadline_s * (1 + stretch)).tolist()
        self._bulk = (rng.uniform(size=world.images) < world.bulk_share).tolist()

    def play(self) -> Tally:
        for index, now in enumerate(self._arrivals):
            while self._finishing and self._finishing[0][0] <= now:
                self._dispatch(heapq.heappop(self._finishing)[0])
            self._arrive(now, index)
        while self._finishing:
            self._dispatch(heapq.heappop(self._finishing)[0])
        return self.tally

    def _arrive(self, now: float, index: int) -> None:
        priority = Priority.BULK if self._bulk[index] else Priority.INTERACTIVE
        deadline_s = self._deadlines[index]
        request = Waiting(priority, now + deadline_s, index)
        backlog = Backlog(
            slots_free_in_s=[max(0.0, free - now) for free in self._free_at],
            waiting=len(self._queue),
            ahead=self._keys.before(priority, request.deadline),
        )
        if self._admission and refuse(deadline_s, backlog, self._latency, self._limits):
            self.tally.settle(request, "refused")
            return
        self._queue.insert(request)
        self._keys.add(request)
        self._dispatch(now)

    def _dispatch(self, now: float) -> None:
        for slot, free in enumerate(self._free_at):
            if free > now:
                continue
            batch = self._next_batch(now)
            if batch:
                self._free_at[slot] = self._run(now, batch)
                heapq.heappush(self._finishing, (self._free_at[slot], slot))

    def _next_batch(self, now: float) -> list[Waiting]:
        ready = len(self._queue)
        decided = form_batch(
            now, self._queue.take(()), ready, self._patience, self._world.max_batch_size
        )
        for request in (*decided.shed, *decided.dispatch):
            self._keys.discard(request)
        for request in decided.shed:
            self.tally.settle(request, "dropped")
        return decided.dispatch

    def _run(self, now: float, batch: list[Waiting]) -> float:
        size = len(batch)
        expected = now + self._latency.predict(size)
        took = self._world.duration(self._latency.bucket(size), next(self._noise))
        self._latency.observe(size, took)
        self.tally.sizes.append(size)
        for request in batch:
            self.tally.settle(request, "in_time" if now + took <= request.deadline else "late")
            self.tally.waited_too_long += size > 1 and expected > request.deadline
            arrived = self._arrivals[request.arrival]
            self.tally.latencies.append(now + took - arrived)
        return now + took


def simulate(world: World, *, admission: bool = True, early_drop: bool = True) -> Tally:
    """Run `world.images` arrivals through the policy and count their outcomes."""
    return Run(world, admission=admission, early_drop=early_drop).play()
