"""Simulate others beside a burst, in virtual time, with the service's admission and dispatch.

Two slots decode and run images: a steady load, and every few seconds 200 images at once. The order
is the service's, or that by deadline alone, or the best without interrupting a batch: the others
always go first, and nothing is in a batch with another image.
`python -m tests.unit.batching.burst_simulation` prints what the others wait.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from tests.fakes import FakeEngine
from tidegate.service.batching.admission import Admission, Admitted, Arrival
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.dispatch import Dispatch
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.placement import DecodePlacement
from tidegate.service.batching.policy import Limits, Refusal, haste
from tidegate.service.batching.slots import Batch, Slot
from tidegate.service.batching.tickets import Ticket
from tidegate.service.types import Priority

ORDERS = ("by deadline", "fair", "best")
JOB = "job"


@dataclass(frozen=True)
class Burst:
    """A steady load and bursts. Times in seconds."""

    order: str = "fair"
    images: int = 200  # in a burst
    every_s: float = 6.0
    rounds: int = 40
    load: float = 0.3  # of the capacity
    limit_s: float = 0.25  # the steady load's time limit
    job_limit_s: float = 2.0
    job: str = ""  # the client that sends the bursts; the others have one each, or all are ""
    slots: int = 2
    decode_s: float = 0.0015
    engine_s: float = 0.0085  # of one image
    in_company: float = 0.9  # each further image of a batch takes this part of it
    largest_batch: int = 2
    jitter: float = 0.25
    seed: int = 7

    @property
    def capacity(self) -> float:
        return self.slots / (self.decode_s + self.engine_s)

    def batch_s(self, images: int) -> float:
        return self.engine_s * (1 + self.in_company * (images - 1))


@dataclass
class Seen:
    """What happened to the images."""

    quiet: list[float] = field(default_factory=list)  # latencies of the steady load before bursts
    disturbed: list[float] = field(default_factory=list)  # and after
    fates: Counter[str] = field(default_factory=Counter)

    def quantile(self, share: float, *, disturbed: bool) -> float:
        """Return a quantile of the steady load's latencies, in seconds."""
        return float(np.quantile(self.disturbed if disturbed else self.quiet, share))


class _ByDeadline(Admission):
    """Admission as it was: it counts only what runs before an arrival."""

    def _refuse_for_others(self, *_: Any) -> Refusal | None:
        return None


class _WithoutTurns(Dispatch):
    """Dispatch as it was: an image has company unless it has overtaken it."""

    def _together(self, slot: Slot, lane: Lane, now: float) -> int:
        ready = len(self._ready[lane])
        first, *others = self._ready[lane].preferred(lane.limits.max_batch_size)
        overtaken = [one for one in others if one.arrival < first.arrival]
        return 1 if overtaken else ready


class _Slot:
    def __init__(self, index: int) -> None:
        self.index = index


class _Run:
    def __init__(self, world: Burst) -> None:
        self.seen = Seen()
        self._world = world
        self._now = 0.0
        placement = DecodePlacement(None, None)
        fair = world.order == "fair"
        self._largest = 1 if world.order == "best" else world.largest_batch
        self._admission = (Admission if fair else _ByDeadline)(world.slots, placement)
        sizes = [size for size in (1, 2, 4, 8) if size <= self._largest]
        latency = LatencyModel({size: world.batch_s(size) for size in sizes})
        limits = Limits(self._largest, 10**6, world.slots, world.job_limit_s)
        self._lane = Lane(FakeEngine(slots=world.slots), latency, limits)
        self._dispatch = (Dispatch if fair else _WithoutTurns)(
            [cast(Slot, _Slot(index)) for index in range(world.slots)],
            [0] * world.slots,
            self._admission,
            finish=cast(Any, self._finish),
            finish_idle_work=cast(Any, None),
            top_up=None,
            clock=lambda: self._now,
        )
        self._admission.open(self._lane)
        self._dispatch.open(self._lane)
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._arrived: dict[Ticket, tuple[float, bool]] = {}  # when, and whether in a burst
        self._waits: set[Ticket] = set()
        self._rng = np.random.default_rng(world.seed)

    def play(self) -> Seen:
        world, at = self._world, 0.0
        end = world.rounds * world.every_s
        while (at := at + self._rng.exponential(1 / (world.load * world.capacity))) < end:
            client = f"person {int(at * 1e6)}" if world.job else ""
            self._at(at, lambda who=client: self._arrive(who, world.limit_s, job=False))  # type: ignore[misc]
        for burst in range(world.rounds):
            for _ in range(world.images):
                when = (burst + 0.5) * world.every_s
                self._at(when, lambda: self._arrive(world.job, world.job_limit_s, job=True))
        while self._events:
            self._now, _, event = heapq.heappop(self._events)
            event()
        return self.seen

    def _at(self, when: float, event: Callable[[], object]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _arrive(self, client: str, limit_s: float, *, job: bool) -> None:
        world = self._world
        patient = 1e6 if world.order == "best" else limit_s
        cost = DecodeCost("JPEG", world.decode_s)
        deadline = self._now + patient
        arrival = Arrival(self._lane, deadline, Priority.INTERACTIVE, cost, client, haste(patient))
        decided = self._admission.decide(arrival, self._now)
        if not isinstance(decided, Admitted):
            self._count("refused", job=job)
            return
        urgency = {"by deadline": (0, deadline), "best": (int(job), 0.0)}
        hurry, turn = urgency.get(world.order, (arrival.haste, decided.turn))
        ticket = Ticket(
            arrival.priority,
            deadline,
            next(self._order),
            lane=self._lane,
            answer=cast(Any, None),
            predicted_s=decided.predicted_s,
            cost=cost,
            client=client,
            work_s=decided.work_s,
            typical_decode_s=decided.typical_decode_s,
            placement=decided.placement,
            slot_decode_s=decided.slot_decode_s,
            haste=hurry,
            turn=turn,
            image=cast(Any, ()),
        )
        self._admission.charge(ticket)
        self._admission.add(ticket)
        self._arrived[ticket] = self._now, job
        self._waits.add(ticket)
        self._at(deadline, lambda: self._leave(ticket))
        self._dispatch.add(ticket)
        filled = self._dispatch.fill_idle_slots()
        self._drop(filled.late)
        for _, batch in filled.batches:
            self._start(batch)

    def _start(self, batch: Batch) -> None:
        world, images = self._world, len(batch.images)
        factor = self._rng.lognormal(0.0, world.jitter)
        engine_s = world.batch_s(images) * factor
        took_s = engine_s + images * world.decode_s
        self._at(self._now + took_s, lambda: batch.done(cast(Any, engine_s)))

    def _finish(self, slot: Slot, tickets: Sequence[Ticket], _: bool, engine_s: Any) -> None:
        self._lane.batches -= 1
        self._lane.latency.observe(len(tickets), engine_s)
        for ticket in tickets:
            arrived, job = self._arrived.pop(ticket)
            self._admission.discharge(ticket)
            in_time = self._now <= ticket.deadline
            self._count("in time" if in_time else "late", job=job)
            if in_time and not job:
                half = arrived % self._world.every_s < self._world.every_s / 2
                (self.seen.quiet if half else self.seen.disturbed).append(self._now - arrived)
        batch, late = self._dispatch.next_batch(slot)
        self._drop(late)
        if batch is not None:
            self._start(batch)

    def _leave(self, ticket: Ticket) -> None:
        if ticket in self._arrived and ticket.queued:
            self._admission.remove(ticket)
            self._dispatch.remove(ticket)
            self._drop([ticket])

    def _drop(self, late: Sequence[Ticket]) -> None:
        for ticket in late:
            _, job = self._arrived.pop(ticket)
            self._admission.discharge(ticket)
            self._count("late", job=job)

    def _count(self, fate: str, *, job: bool) -> None:
        self.seen.fates[f"{'job' if job else 'others'} {fate}"] += 1


def simulate(world: Burst) -> Seen:
    """Return what a world's images met."""
    return _Run(world).play()


def main() -> None:
    """Print the others' latencies for each order."""
    worlds = {
        "one address, the job has 2 s and the others 0.25 s": Burst(),
        "the same, 1.5 times slower": Burst(engine_s=0.0135),
        "the same in bf16, batches of four": Burst(
            engine_s=0.0034, in_company=0.72, largest_batch=4
        ),
        "a client's job, all have 2 s": Burst(limit_s=2.0, job=JOB),
    }
    for title, world in worlds.items():
        print(title)
        for order in ORDERS:
            seen = simulate(replace(world, order=order))
            before, after = (seen.quantile(0.99, disturbed=d) for d in (False, True))
            print(
                f"  {order:12} p50 {1e3 * seen.quantile(0.5, disturbed=True):6.1f} ms, "
                f"p99 {1e3 * after:6.1f} ms, {after / before:4.2f} x undisturbed; "
                + ", ".join(f"{fate} {n}" for fate, n in sorted(seen.fates.items()))
            )


if __name__ == "__main__":
    main()
