"""Measure a server's capacity, then its behaviour at shares of it, from a tenth to several times.

The capacity is measured with closed loops, the curves with open ones. The shares run in a shuffled
order, so that a drift of the machine adds scatter but does not bend the curve. The capacity is
measured again at the end, to report the drift.
The module uses no sockets: the caller passes the function that measures a load.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from load_tests.errors import MeasurementFailed
from load_tests.generator.run import Load
from load_tests.generator.statistics import Report

GROWTH = 1.03  # a rung counts as growth above this ratio to the best rung before it
MIN_CLIENTS, MAX_CLIENTS = 16, 512  # a batching server may gain nothing from 2 or 4
SETTLE_S = 1.0  # longest warm-up before each run, because the previous run may leave a backlog
REFUSED = 0.01  # share of a rung's requests rejected for overload that ends the search
_NO_ROOM = ("429", "503", "504")
_PATIENCE = 2  # rungs without growth that end the search; one may be noise


@dataclass(frozen=True)
class Measured:
    """Result of one load, without its outcomes, of which a sweep would keep millions."""

    report: Report
    predictions: Sequence[tuple[float, float]] = ()  # (predicted, actual) ms, if both are known


Measure = Callable[[Load], Awaitable[Measured]]


@dataclass(frozen=True)
class SweepConfig:
    """Configuration of a sweep: shares of the capacity, and the length of every run."""

    shares: Sequence[float]
    step_s: float
    deadline_ms: float
    timeout_s: float = 10.0
    seed: int = 0

    @property
    def settle_s(self) -> float:
        """Seconds of unmeasured load before each run."""
        return min(SETTLE_S, self.step_s / 10)

    def closed(self, clients: int) -> Load:
        """Return the load of a rung: without a deadline, so that none causes a rejection."""
        return Load(
            self.step_s,
            clients=clients,
            warm_up_s=self.settle_s,
            timeout_s=self.timeout_s,
            seed=self.seed,
        )

    def open(self, rate: float, number: int) -> Load:
        """Return the load of a step; each step has different random arrivals."""
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
        """Display name: `1 client`, `8 clients`."""
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
        """Requests per second actually sent; a Poisson process deviates from its rate."""
        return self.measured.report.requests / self.load.duration_s


@dataclass(frozen=True)
class Sweep:
    """A whole sweep: the rungs in the order measured, the steps by increasing share."""

    rungs: Sequence[Rung]
    steps: Sequence[Step]
    again: Rung  # the best rung's load, measured again at the end
    deadline_ms: float

    @property
    def best(self) -> Rung:
        """The rung whose throughput is the capacity."""
        return best_of(self.rungs)

    @property
    def capacity(self) -> float:
        """Images per second, to which the shares refer."""
        return self.best.per_s

    @property
    def drift(self) -> float:
        """Relative change of the capacity from the search to the end; 0.02 is 2 % faster."""
        return self.again.per_s / self.capacity - 1

    @property
    def predictions(self) -> list[tuple[float, float]]:
        """(predicted, actual) milliseconds of every step."""
        return [pair for step in self.steps for pair in step.measured.predictions]


async def sweep(
    measure: Measure,
    config: SweepConfig,
    on_rung: Callable[[Rung], None],
    on_step: Callable[[Step], None],
) -> Sweep:
    """Run the whole sweep; `on_rung` and `on_step` are called after each run.

    Raises MeasurementFailed if the server answers nothing.
    """
    rungs = await climb(measure, config, on_rung)
    best = best_of(rungs)
    steps = []
    for number, share in enumerate(shuffled(config.shares, config.seed)):
        load = config.open(share * best.per_s, number)
        steps.append(Step(share, load, await measure(load)))
        on_step(steps[-1])
    again = Rung(best.clients, await measure(config.closed(best.clients)))
    on_rung(again)
    return Sweep(rungs, sorted(steps, key=lambda step: step.share), again, config.deadline_ms)


async def climb(
    measure: Measure, config: SweepConfig, on_rung: Callable[[Rung], None]
) -> list[Rung]:
    """Double the clients until two successive rungs show no growth; returns every rung.

    It runs at least to MIN_CLIENTS and at most to MAX_CLIENTS. A rung that the server rejects for
    overload is the last, because more clients would be rejected more often.
    Raises MeasurementFailed if the server answers nothing.
    """
    rungs: list[Rung] = []
    clients = 1
    while clients <= MIN_CLIENTS or still_growing([rung.per_s for rung in rungs]):
        rungs.append(Rung(clients, await measure(config.closed(clients))))
        if not rungs[-1].per_s:
            raise MeasurementFailed(_nothing(rungs[-1]))
        on_rung(rungs[-1])
        if clients == MAX_CLIENTS or _no_room_share(rungs[-1].measured.report) > REFUSED:
            break
        clients *= 2
    return rungs


def still_growing(per_s: Sequence[float]) -> bool:
    """Return whether one of the last two rungs exceeds all earlier rungs by more than 3 %."""
    earlier, last = per_s[:-_PATIENCE], per_s[-_PATIENCE:]
    return not earlier or max(last) > GROWTH * max(earlier)


def best_of(rungs: Sequence[Rung]) -> Rung:
    """Return the rung of the highest throughput; it is not the last if the server thrashes."""
    return max(rungs, key=lambda rung: rung.per_s)


def shuffled(shares: Sequence[float], seed: int) -> list[float]:
    """Return the shares in an order that the seed determines."""
    return random.Random(seed).sample(list(shares), len(shares))


def refused_share(report: Report) -> float:
    """Return the share of requests with a response that is not an answer."""
    return (sum(report.statuses.values()) - report.answered) / max(1, report.requests)


def error_share(report: Report) -> float:
    """Return the share of requests without a usable response."""
    return sum(report.errors.values()) / max(1, report.requests)


def _no_room_share(report: Report) -> float:
    """Return the share rejected for overload: without, for example, images that do not decode."""
    return sum(report.statuses.get(status, 0) for status in _NO_ROOM) / max(1, report.requests)


def _nothing(rung: Rung) -> str:
    report = rung.measured.report
    seen = {**report.statuses, **report.codes, **report.errors}
    counts = ", ".join(f"{count} × {what}" for what, count in seen.items()) or "no response"
    return f"no image was answered with {rung.name} ({counts})"
