"""Find a server's capacity, then see what it does at shares of it, from a tenth to several times.

The capacity comes from closed loops, the curves from open ones. The shares are taken in a shuffled
order, so that a machine that drifts in the meantime adds scatter and does not bend the curve, and
the capacity is measured once more at the end, to say by how much it drifted.
Knows no socket: whoever calls it hands in how a load is measured.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from load_tests.errors import MeasurementFailed
from load_tests.generator.run import Load
from load_tests.generator.statistics import Report

GROWTH = 1.03  # what a rung must be of the best before it, to count as growth
MIN_CLIENTS, MAX_CLIENTS = 16, 512  # a batching server may gain nothing from 2 or 4
SETTLE_S = 1.0  # at most, of light load before each run: the one before may leave a backlog
REFUSED = 0.01  # share of a rung's requests that the server had no room for
_NO_ROOM = ("429", "503", "504")
_PATIENCE = 2  # rungs without growth that end the search: one may be a hiccup of the machine


@dataclass(frozen=True)
class Measured:
    """What one load showed; a run without its outcomes, of which a sweep would pile up millions."""

    report: Report
    predictions: Sequence[tuple[float, float]] = ()  # (predicted, actual) ms, where both are known


Measure = Callable[[Load], Awaitable[Measured]]


@dataclass(frozen=True)
class Plan:
    """What a sweep runs. `shares` are of the capacity; `step_s` is the length of every run."""

    shares: Sequence[float]
    step_s: float
    deadline_ms: float
    timeout_s: float = 10.0
    seed: int = 0

    @property
    def settle_s(self) -> float:
        """Seconds of light load before each run, not measured."""
        return min(SETTLE_S, self.step_s / 10)

    def closed(self, clients: int) -> Load:
        """The load of a rung of the search: no deadline, so that nothing is refused for one."""
        return Load(
            self.step_s,
            clients=clients,
            warm_up_s=self.settle_s,
            timeout_s=self.timeout_s,
            seed=self.seed,
        )

    def open(self, rate: float, number: int) -> Load:
        """The load of a step; each step draws its own arrivals."""
        return Load(
            self.step_s,
            rate=rate,
            deadline_ms=self.deadline_ms,
            warm_up_s=self.settle_s,
            timeout_s=self.timeout_s,
            seed=self.seed + number,
            predictions=True,
        )


@dataclass(frozen=True)
class Rung:
    """One closed loop of the search for the capacity."""

    clients: int
    measured: Measured

    @property
    def name(self) -> str:
        """For a reader: `1 client`, `8 clients`."""
        return "1 client" if self.clients == 1 else f"{self.clients} clients"

    @property
    def per_s(self) -> float:
        """Images answered per second."""
        return self.measured.report.throughput


@dataclass(frozen=True)
class Step:
    """One open loop at a share of the capacity."""

    share: float
    load: Load
    measured: Measured

    @property
    def offered(self) -> float:
        """Requests per second that were really sent: a Poisson process misses its rate a little."""
        return self.measured.report.requests / self.load.duration_s


@dataclass(frozen=True)
class Sweep:
    """A whole sweep: the rungs in the order climbed, the steps by rising share."""

    rungs: Sequence[Rung]
    steps: Sequence[Step]
    again: Rung  # the best rung's load, measured once more at the end
    deadline_ms: float

    @property
    def best(self) -> Rung:
        """The rung whose throughput is the capacity."""
        return best_of(self.rungs)

    @property
    def capacity(self) -> float:
        """Images per second; the shares are of it."""
        return self.best.per_s

    @property
    def drift(self) -> float:
        """Relative change of the capacity from the search to the end; 0.02 is 2 % faster."""
        return self.again.per_s / self.capacity - 1

    @property
    def predictions(self) -> list[tuple[float, float]]:
        """(predicted, actual) milliseconds, of every step."""
        return [pair for step in self.steps for pair in step.measured.predictions]


async def sweep(
    measure: Measure,
    plan: Plan,
    on_rung: Callable[[Rung], None],
    on_step: Callable[[Step], None],
) -> Sweep:
    """Run the whole plan; `on_rung` and `on_step` hear of each run when it has ended.

    Raises MeasurementFailed when the server answers nothing.
    """
    rungs = await climb(measure, plan, on_rung)
    best = best_of(rungs)
    steps = []
    for number, share in enumerate(shuffled(plan.shares, plan.seed)):
        load = plan.open(share * best.per_s, number)
        steps.append(Step(share, load, await measure(load)))
        on_step(steps[-1])
    again = Rung(best.clients, await measure(plan.closed(best.clients)))
    on_rung(again)
    return Sweep(rungs, sorted(steps, key=lambda step: step.share), again, plan.deadline_ms)


async def climb(measure: Measure, plan: Plan, on_rung: Callable[[Rung], None]) -> list[Rung]:
    """Double the clients until two rungs in a row bring no growth; returns every rung.

    It goes to MIN_CLIENTS at least and to MAX_CLIENTS at most. A rung that the server has no room
    for is the last: more clients would be refused yet more.
    Raises MeasurementFailed when the server answers nothing.
    """
    rungs: list[Rung] = []
    clients = 1
    while clients <= MIN_CLIENTS or still_growing([rung.per_s for rung in rungs]):
        rungs.append(Rung(clients, await measure(plan.closed(clients))))
        if not rungs[-1].per_s:
            raise MeasurementFailed(_nothing(rungs[-1]))
        on_rung(rungs[-1])
        if clients == MAX_CLIENTS or _no_room_share(rungs[-1].measured.report) > REFUSED:
            break
        clients *= 2
    return rungs


def still_growing(per_s: Sequence[float]) -> bool:
    """Whether one of the last two rungs beat every rung before both by more than 3 %."""
    earlier, last = per_s[:-_PATIENCE], per_s[-_PATIENCE:]
    return not earlier or max(last) > GROWTH * max(earlier)


def best_of(rungs: Sequence[Rung]) -> Rung:
    """Return the rung of the highest throughput: a server that thrashes has its best early."""
    return max(rungs, key=lambda rung: rung.per_s)


def shuffled(shares: Sequence[float], seed: int) -> list[float]:
    """Return the shares in an order that the seed fixes."""
    return random.Random(seed).sample(list(shares), len(shares))


def refused_share(report: Report) -> float:
    """Return the share of the requests that got a response other than an answer."""
    return (sum(report.statuses.values()) - report.answered) / max(1, report.requests)


def error_share(report: Report) -> float:
    """Return the share of the requests that got no usable response."""
    return sum(report.errors.values()) / max(1, report.requests)


def _no_room_share(report: Report) -> float:
    """Unlike `refused_share` without what no load explains, such as an image it cannot decode."""
    return sum(report.statuses.get(status, 0) for status in _NO_ROOM) / max(1, report.requests)


def _nothing(rung: Rung) -> str:
    report = rung.measured.report
    seen = {**report.statuses, **report.codes, **report.errors}
    told = ", ".join(f"{count} × {what}" for what, count in seen.items()) or "no response at all"
    return f"no image was answered with {rung.name} ({told})"
