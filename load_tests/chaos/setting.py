"""What the scenarios share: how a server is started, how sound clients behave, what a row is."""

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
from load_tests.fuzz.memory import Memory
from load_tests.fuzz.server import good_request, launch
from load_tests.server.process_tree import alive
from load_tests.server.start import Started, ask, running

START_TIMEOUT_S = 45.0
ANSWER_S = 10.0  # for an answer that is not held to be quick
GROWTH_MB = 64.0  # that one client may cost, beyond what its images take


@dataclass(frozen=True)
class Outcome:
    """One row: what was seen, and whether it is what was expected."""

    observed: str
    passed: bool
    skipped: bool = False


@dataclass(frozen=True)
class Setting:
    """What a scenario is given."""

    bundle: Path
    seconds: float  # of load, where a scenario loads
    drains: int


Scenario = Callable[[Setting], Coroutine[None, None, Outcome]]


@dataclass
class Server:
    """A running server and what scenarios ask of it."""

    started: Started
    target: Target

    @property
    def pid(self) -> int:
        """The main process."""
        return self.started.main_pid

    @property
    def memory(self) -> Memory:
        """Of the main process."""
        return Memory(self.pid)

    def alive(self) -> bool:
        """Whether the main process still runs."""
        return bool(alive([self.pid]))

    def log(self) -> str:
        """All that it has logged."""
        return self.started.log.read_text(encoding="utf-8", errors="replace")

    async def good(self, timeout_s: float = ANSWER_S, request: bytes | None = None) -> int | None:
        """The status of the sound image on a new connection, or of another; None without one."""
        return _status(await ask(self.target, request or good_request(), timeout_s))

    async def get(self, path: bytes, timeout_s: float = ANSWER_S) -> Response | None:
        """The answer to a GET on a new connection."""
        return await ask(self.target, wire.get(path), timeout_s)


@asynccontextmanager
async def served(
    setting: Setting,
    env: Mapping[str, str] | None = None,
    conditions: Sequence[str] = (),
    start_timeout_s: float = START_TIMEOUT_S,
) -> AsyncIterator[Server]:
    """Run the server, under `conditions` of `load_tests.chaos.launch`.

    Raises MeasurementFailed when it does not answer in time.
    """
    before = (sys.executable, "-m", "load_tests.chaos.launch", *conditions, "--")
    start = launch(setting.bundle, env, before=before if conditions else ())
    async with running(
        start.command, start.env, start.url, good_request(), start_timeout_s=start_timeout_s
    ) as started:
        yield Server(started, start.target)


async def good_traffic(
    server: Server, rate: float, seconds: float, request: bytes | None = None
) -> "Traffic":
    """Send the sound image, or another request, at an even rate, and count the answers.

    Each has a connection of its own.
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
    """The answers that sound clients got."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.latencies_s: list[float] = []

    async def one(self, server: Server, request: bytes | None) -> None:
        """Send one image and count."""
        begun = time.monotonic()
        status = await server.good(request=request)
        self.statuses[str(status)] += 1
        if status == 200:
            self.latencies_s.append(time.monotonic() - begun)

    @property
    def sent(self) -> int:
        """How many were sent."""
        return self.statuses.total()

    @property
    def goodput(self) -> float:
        """The share that was answered 200."""
        return self.statuses["200"] / max(1, self.sent)

    def quantile_ms(self, share: float) -> float:
        """Return a quantile of the latencies of all that were sent, an observed one.

        What was not answered 200 is later than any answer: infinite.
        """
        ordered = sorted(self.latencies_s)
        rank = min(self.sent - 1, int(share * self.sent))
        return 1000 * ordered[rank] if 0 <= rank < len(ordered) else math.inf

    def __str__(self) -> str:
        counts = " ".join(f"{status}×{n}" for status, n in sorted(self.statuses.items()))
        return f"{self.goodput:.0%} of {self.sent} good ({counts})"


def _status(response: Response | None) -> int | None:
    return None if response is None else response.status
