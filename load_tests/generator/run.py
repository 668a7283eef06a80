"""Run one load against one server and return its outcomes and report: `drive(target, …)`."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from load_tests.client.connection import Pool, Response
from load_tests.client.requests import Target, shuffled_forever
from load_tests.errors import MeasurementFailed
from load_tests.generator.arrivals import constant, poisson
from load_tests.generator.ledger import Ledger, Progress
from load_tests.generator.loops import Outcome, Sender, closed_loop, open_loop
from load_tests.generator.statistics import Report, Spent, pairs, summarise
from load_tests.server.batch_sizes import BatchSizes, batch_sizes
from load_tests.server.usage import Usage, usage

WARM_UP_CLIENTS = 4
PROGRESS_EVERY_S = 0.5


@dataclass(frozen=True)
class Load:
    """Parameters of a load, with either a rate (open loop, requests/s) or clients (closed loop).

    Raises ValueError if both or none is given, or if a number is out of its range.
    """

    duration_s: float
    rate: float | None = None
    clients: int | None = None
    arrivals: Literal["poisson", "constant"] = "poisson"
    deadline_ms: float | None = None  # limit for goodput; the payloads send it to the server
    warm_up_s: float = 0.0  # an unmeasured closed loop of a few clients before
    timeout_s: float = 10.0  # of a request, from its intended time
    max_connections: int = 512  # open loop only
    vanish: float = 0.0  # share of requests whose client disconnects before the answer
    seed: int = 0
    keep_alive: bool = True  # otherwise a new connection per request
    predictions: bool = False  # parse every answer, to compare the server's prediction with it

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.clients is None):
            raise ValueError("a load needs either a rate (open loop) or clients (closed loop)")
        numbers = (self.duration_s, self.timeout_s, self.rate, self.clients)
        if any(number is not None and number <= 0 for number in numbers):
            raise ValueError("duration, timeout, rate and clients must be above 0")
        if not 0 <= self.vanish <= 1:
            raise ValueError(f"vanish must be a share from 0 to 1, not {self.vanish}")


@dataclass(frozen=True)
class Run:
    """A finished load: every outcome, in the order of the intended times, and its report."""

    load: Load
    outcomes: list[Outcome]
    report: Report

    @property
    def predictions(self) -> list[tuple[float, float]]:
        """(predicted, actual) milliseconds of each answer that contains both; see Load."""
        return pairs(self.outcomes)


async def drive(
    target: Target,
    payloads: Sequence[bytes],
    load: Load,
    *,
    server_pid: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_response: Callable[[bytes, Response], None] = lambda request, response: None,
) -> Run:
    """Send the load, await every answer, and report. Failures are counted, never raised.

    `payloads` are whole HTTP requests (see `images.build_requests`), sent in a seeded order.
    `on_response` gets each measured request with its response.
    Raises ProcessLookupError if there is no process `server_pid`, MeasurementFailed if it exits
    during the run.
    """
    connections = load.clients or load.max_connections
    pool = Pool(target.host, target.port, connections, keep_alive=load.keep_alive)
    requests = shuffled_forever(payloads, load.seed)
    try:
        if load.warm_up_s:
            warm = Sender(pool, requests, load.timeout_s, note=lambda _: None)
            await closed_loop(warm, WARM_UP_CLIENTS, load.warm_up_s)
        ledger = Ledger()
        sender = Sender(
            pool,
            requests,
            load.timeout_s,
            ledger.outcomes.append,
            load.vanish,
            load.predictions,
            random.Random(load.seed),
            on_response,
        )
        batches_before = await batch_sizes(pool, target)
        server_before = None if server_pid is None else usage(server_pid)
        opened, cpu, start = pool.opened, time.process_time(), time.monotonic()
        async with _reporting(ledger, start, on_progress):
            await _send(sender, load)
        spent = Spent(
            elapsed_s=time.monotonic() - start,
            client_cpu_s=time.process_time() - cpu,
            connections_opened=pool.opened - opened,
            server=_usage_since(server_before, server_pid),
            batches=_since(await batch_sizes(pool, target), batches_before),
        )
    finally:
        pool.close()
    outcomes = sorted(ledger.outcomes, key=lambda outcome: outcome.at_s)
    deadline_s = None if load.deadline_ms is None else load.deadline_ms / 1e3
    return Run(load, outcomes, summarise(outcomes, spent, deadline_s))


async def _send(sender: Sender, load: Load) -> None:
    if load.clients is not None:
        return await closed_loop(sender, load.clients, load.duration_s)
    rate = load.rate or 0.0
    if load.arrivals == "poisson":
        return await open_loop(sender, poisson(rate, load.duration_s, load.seed))
    return await open_loop(sender, constant(rate, load.duration_s))


def _usage_since(before: Usage | None, server_pid: int | None) -> Usage | None:
    if before is None or server_pid is None:
        return None
    try:
        return usage(server_pid).since(before)
    except ProcessLookupError:
        raise MeasurementFailed(
            f"the server (process {server_pid}) exited during the run"
        ) from None


def _since(after: BatchSizes | None, before: BatchSizes | None) -> BatchSizes | None:
    return after.since(before) if after and before else None


@asynccontextmanager
async def _reporting(
    ledger: Ledger, start: float, on_progress: Callable[[Progress], None] | None
) -> AsyncIterator[None]:
    """Call `on_progress` every PROGRESS_EVERY_S while the block runs, and once at its end."""
    if on_progress is None:
        yield
        return

    async def report() -> None:
        while True:
            await asyncio.sleep(PROGRESS_EVERY_S)
            on_progress(ledger.progress(start, time.monotonic()))

    reporter = asyncio.create_task(report())
    try:
        yield
    finally:
        reporter.cancel()
        await asyncio.gather(reporter, return_exceptions=True)
        on_progress(ledger.progress(start, time.monotonic()))
