"""Shared by the scenarios: starting a server, traffic of normal clients, and the outcome."""

import asyncio
import math
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from load_tests.client.connection import Response
from load_tests.client.requests import Target
from load_tests.fuzz import wire
from load_tests.fuzz.memory import Memory, until_idle
from load_tests.fuzz.server import good_request, launch
from load_tests.server.process_tree import alive
from load_tests.server.start import Started, running, send_request

START_TIMEOUT_S = 45.0
ANSWER_S = 10.0  # timeout for an answer that need not be fast
GROWTH_MB = 64.0  # limit for one client, in addition to the memory of its images


@dataclass(frozen=True)
class Outcome:
    """One row: the observation, and whether it is as expected."""

    observed: str
    passed: bool
    skipped: bool = False


@dataclass(frozen=True)
class Setting:
    """The arguments of a scenario."""

    bundle: Path
    seconds: float  # of load, in scenarios with load
    drains: int


Scenario = Callable[[Setting], Coroutine[None, None, Outcome]]


@dataclass
class Server:
    """A running server, with the requests that scenarios need."""

    started: Started
    target: Target

    @property
    def pid(self) -> int:
        """PID of the main process."""
        return self.started.main_pid

    @property
    def memory(self) -> Memory:
        """Memory of the main process."""
        return Memory(self.pid)

    def alive(self) -> bool:
        """Whether the main process still runs."""
        return bool(alive([self.pid]))

    def log(self) -> str:
        """Return the whole log."""
        return self.started.log.read_text(encoding="utf-8", errors="replace")

    async def good(self, timeout_s: float = ANSWER_S, request: bytes | None = None) -> int | None:
        """Send the valid image, or `request`, on a new connection; return its status or None."""
        return _status(await send_request(self.target, request or good_request(), timeout_s))

    async def get(self, path: bytes, timeout_s: float = ANSWER_S) -> Response | None:
        """Return the answer to a GET on a new connection."""
        return await send_request(self.target, wire.get(path), timeout_s)


@asynccontextmanager
async def served(
    setting: Setting,
    env: Mapping[str, str] | None = None,
    conditions: Sequence[str] = (),
    start_timeout_s: float = START_TIMEOUT_S,
) -> AsyncIterator[Server]:
    """Run the server, under `conditions` of `load_tests.chaos.launch`.

    Raises MeasurementFailed if it does not answer in time.
    """
    before = (sys.executable, "-m", "load_tests.chaos.launch", *conditions, "--")
    start = launch(setting.bundle, env, before=before if conditions else ())
    async with running(
        start.command, start.env, start.url, good_request(), start_timeout_s=start_timeout_s
    ) as started:
        await until_idle(started.main_pid, start_timeout_s)  # a front end is started ahead
        yield Server(started, start.target)


async def good_traffic(
    server: Server, rate: float, seconds: float, request: bytes | None = None
) -> "Traffic":
    """Send the valid image, or `request`, at a constant rate, and count the answers.

    Each request uses a new connection.
    """
    traffic = Traffic()
    begun, number = time.monotonic(), 0
    async with asyncio.TaskGroup() as tasks:
        while (due := number / rate) < seconds:
            await asyncio.sleep(max(0.0, begun + due - time.monotonic()))
            tasks.create_task(traffic.one(server, request))
            number += 1
    return traffic


class Traffic:
    """The answers that normal clients received."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.latencies_s: list[float] = []

    async def one(self, server: Server, request: bytes | None) -> None:
        """Send one request and count its answer."""
        begun = time.monotonic()
        status = await server.good(request=request)
        self.statuses[str(status)] += 1
        if status == 200:
            self.latencies_s.append(time.monotonic() - begun)

    @property
    def sent(self) -> int:
        """Number of requests sent."""
        return self.statuses.total()

    @property
    def goodput(self) -> float:
        """Share of requests answered 200."""
        return self.statuses["200"] / max(1, self.sent)

    def quantile_ms(self, share: float) -> float:
        """Return an observed quantile of the latencies of all requests.

        A request without a 200 counts as infinitely late.
        """
        ordered = sorted(self.latencies_s)
        rank = min(self.sent - 1, int(share * self.sent))
        return 1000 * ordered[rank] if 0 <= rank < len(ordered) else math.inf

    def __str__(self) -> str:
        counts = " ".join(f"{status}×{n}" for status, n in sorted(self.statuses.items()))
        return f"{self.goodput:.0%} of {self.sent} good ({counts})"


def _status(response: Response | None) -> int | None:
    return None if response is None else response.status
