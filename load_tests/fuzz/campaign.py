"""The campaign: send seeds and mutants, check every answer, and monitor the process."""

import asyncio
import itertools
import os
import signal
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from load_tests.client.connection import Connection, MalformedResponse, Response
from load_tests.client.requests import Target
from load_tests.errors import MeasurementFailed
from load_tests.fuzz.comparison import Comparison
from load_tests.fuzz.conversation import converse
from load_tests.fuzz.failures import Failures
from load_tests.fuzz.http_seeds import http_seeds
from load_tests.fuzz.memory import Memory, until_idle
from load_tests.fuzz.mutants import Mutant, mutant, of_image
from load_tests.fuzz.oracles import Violation, detail_of, is_answer, judge, judge_same
from load_tests.fuzz.seeds import image_seeds
from load_tests.fuzz.server import Launch, good_request
from load_tests.server.process_tree import alive
from load_tests.server.sampling import Sample, sample, watching
from load_tests.server.start import Started, last_lines, running, send_request

MAX_RESTARTS = 20
MAX_SUSPECTS = 100
IDLE_TIMEOUT_S = 30.0
SETTLE_S = 3.0  # from the last mutant to the last sample of memory, threads and descriptors
_PEAK_EVERY_S = 0.05
_QUIET_S = 0.25  # silence after which a damaged request counts as finished
_RECENT = 32


@dataclass(frozen=True)
class Plan:
    """What to send, and the limits whose excess is a violation."""

    seconds: float
    mutants: int
    seed: int
    in_flight: int = 8
    http_share: float = 0.1
    good_every: int = 100
    compare_share: float = 0.05
    slow_s: float = 10.0
    image_mb: float = 600.0  # 25 megapixels of 24 bytes: the decoder processes' limit
    server_mb: float = 5000.0


@dataclass
class Ledger:
    """Counts and measurements of a campaign."""

    sent: Counter[str] = field(default_factory=Counter)  # by kind
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind and status
    refused: Counter[str] = field(default_factory=Counter)  # 503 and 504, by origin and detail
    slowest_s: float = 0.0
    slowest: str = ""
    deaths: int = 0
    good: int = 0
    compared: int = 0
    peak_mb: float = 0.0  # of a single image
    peak: str = ""
    samples: list[Sample] = field(default_factory=list)
    baseline: Sample | None = None
    settled: Sample | None = None
    seconds: float = 0.0

    @property
    def mutants(self) -> int:
        """Number of mutants sent."""
        return sum(self.sent.values())


class Campaign:
    """One run of a plan. A server that exits is restarted at most MAX_RESTARTS times."""

    def __init__(
        self, plan: Plan, launch: Launch, failures: Failures, comparison: Comparison
    ) -> None:
        self.plan = plan
        self.ledger = Ledger()
        self._launch = launch
        self._failures = failures
        self._comparison = comparison
        self._numbers = itertools.count()
        self._end = 0.0
        self._in_flight: dict[int, Mutant] = {}
        self._recent: deque[Mutant] = deque(maxlen=_RECENT)
        self._suspects: dict[bytes, Mutant] = {}
        self._main_pid = 0
        self._ended = False  # by us, because it used too much memory
        self._good: Response | None = None

    async def run(self) -> Ledger:
        """Run the whole campaign. Raises MeasurementFailed if the server does not start."""
        begun = 0.0
        for restart in range(MAX_RESTARTS + 1):
            async with self._server() as server:
                if restart == 0:
                    await self._seeds(server)
                    begun = time.monotonic()
                    self._end = begun + self.plan.seconds
                await self._mutants(server)
                self.ledger.seconds = time.monotonic() - begun
                if alive([server.main_pid]):
                    await self._retry_suspects(server)
                    await self._settle(server)
                    return self.ledger
                self._death(server)
        self._failures.add(Violation("death", f"{MAX_RESTARTS} restarts"), b"", "the campaign")
        return self.ledger

    async def replay(self, request: bytes) -> list[Violation]:
        """Send one saved request by itself and return its violations."""
        async with self._server() as server:
            memory = Memory(server.main_pid)
            before = self._begin_peak(memory)
            found = await self._converse(Mutant(-1, "http", "replay", request), self.plan.slow_s)
            found += self._beyond(memory.peak_mb() - before)
            if not alive([server.main_pid]):
                found.append(Violation("death", last_lines(server.log)))
        return found

    @asynccontextmanager
    async def _server(self) -> AsyncIterator[Started]:
        start = self._launch
        async with running(start.command, start.env, start.url, good_request()) as server:
            self._main_pid, self._ended = server.main_pid, False
            self._good = await send_request(start.target, good_request(), self.plan.slow_s)
            if self._good is None:
                raise MeasurementFailed("the valid image was not answered at the start")
            yield server

    # Seeds: one at a time, with a memory measurement for each.

    async def _seeds(self, server: Started) -> None:
        memory = Memory(server.main_pid)
        for seed in image_seeds():
            await self._single(of_image(seed), memory)
        for http in http_seeds():
            sent = Mutant(-1, "http", http.name, http.data)
            talk = await converse(
                self._launch.target, http.data, self.plan.slow_s, expected=len(http.statuses) or 1
            )
            statuses = tuple(answer.status for answer in talk.answers)
            if http.statuses and statuses != http.statuses:
                expected = f"answered {statuses}, expected {http.statuses}"
                self._failures.add(Violation("seed-answers", expected), sent.request, http.name)
        with suppress(ProcessLookupError):
            self.ledger.baseline = sample(server.pid)

    async def _single(self, image: Mutant, memory: Memory) -> None:
        before = self._begin_peak(memory)
        await self._try(image)
        await until_idle(self._main_pid, IDLE_TIMEOUT_S)  # a rejected decode may continue
        grown = memory.peak_mb() - before
        if grown > self.ledger.peak_mb:
            self.ledger.peak_mb, self.ledger.peak = grown, image.origin
        for violation in self._beyond(grown):
            self._failures.add(violation, image.request, image.origin)

    def _begin_peak(self, memory: Memory) -> float:
        memory.reset()
        return memory.resident_mb()

    def _beyond(self, grown_mb: float) -> list[Violation]:
        if grown_mb <= self.plan.image_mb:
            return []
        return [Violation("memory", f"{grown_mb:.0f} MB for one image")]

    # Mutants: several at a time.

    async def _mutants(self, server: Started) -> None:
        peaks = asyncio.create_task(self._watch_peaks(Memory(server.main_pid)))
        try:
            async with watching(server.pid) as samples:
                await asyncio.gather(*(self._lane() for _ in range(self.plan.in_flight)))
            self.ledger.samples += samples
        finally:
            peaks.cancel()
            await asyncio.gather(peaks, return_exceptions=True)

    async def _lane(self) -> None:
        connection = _Reused(self._launch.target)
        for number in self._next_numbers():
            if number % self.plan.good_every == 0:
                await self._check_good()
            sent = mutant(self.plan.seed, number, self.plan.http_share)
            self._in_flight[number] = sent
            self.ledger.sent[sent.kind] += 1
            if sent.kind == "http":
                await self._try_http(sent)
            else:
                await self._try(sent, connection)
            self._recent.append(self._in_flight.pop(number))
        connection.close()

    def _next_numbers(self) -> Iterator[int]:
        while time.monotonic() < self._end and alive([self._main_pid]):
            number = next(self._numbers)
            if number >= self.plan.mutants:
                return
            yield number

    async def _try(self, sent: Mutant, connection: "_Reused | None" = None) -> None:
        """Send a well-formed request, which must be answered."""
        begun = time.monotonic()
        used = connection or _Reused(self._launch.target)
        try:
            async with asyncio.timeout(self.plan.slow_s):
                response = await used.exchange(sent.request)
        except TimeoutError:
            used.close()
            found = [Violation("slow", f"no answer within {self.plan.slow_s:g} s")]
            status = "none"
        except (OSError, MalformedResponse) as error:
            used.close()
            found = self._unanswered(error)
            status = "none"
        else:
            found, status = judge(response), str(response.status)
            self._compare(sent, response)
            if response.status >= 500:
                self.ledger.refused[f"{sent.origin}: {detail_of(response)}"] += 1
        self._count(sent, status, time.monotonic() - begun, found)
        if connection is None:
            used.close()

    async def _try_http(self, sent: Mutant) -> None:
        """Send a damaged request: no answer is allowed, but a malformed one is not."""
        begun = time.monotonic()
        found = await self._converse(sent, _QUIET_S)
        self._count(sent, "any", time.monotonic() - begun, found)

    async def _converse(self, sent: Mutant, quiet_s: float) -> list[Violation]:
        try:
            talk = await converse(self._launch.target, sent.request, quiet_s)
        except OSError as error:
            return self._unanswered(error)
        found = [violation for answer in talk.answers for violation in judge(answer)]
        if talk.fault and not sent.request.lstrip().startswith(b"HEAD"):
            found.append(Violation("malformed", talk.fault))
        return found

    def _unanswered(self, error: Exception) -> list[Violation]:
        if alive([self._main_pid]):
            return [Violation("no-answer", repr(error))]
        return [] if self._ended else [Violation("death", "the process exited in the meantime")]

    def _count(self, sent: Mutant, status: str, took_s: float, found: list[Violation]) -> None:
        self.ledger.outcomes[sent.kind, status] += 1
        if took_s > self.ledger.slowest_s:
            self.ledger.slowest_s, self.ledger.slowest = took_s, sent.origin
        for violation in found:
            self._failures.add(violation, sent.request, f"mutant {sent.number}: {sent.origin}")

    def _compare(self, sent: Mutant, response: Response) -> None:
        """Compare every seed and a share of the accepted mutants with the reference."""
        if sent.image is None or not is_answer(response):
            return
        share = self.plan.compare_share
        if sent.number < 0 or sent.number * share % 1 < share:
            self._comparison.submit(sent, response.body)

    async def _check_good(self) -> None:
        self.ledger.good += 1
        response = await send_request(self._launch.target, good_request(), self.plan.slow_s)
        if response is None:
            living = alive([self._main_pid])
            found = [Violation("good-image", "no answer")] if living else []
        else:
            found = judge_same(self._good or response, response)
        for violation in found:
            self._failures.add(violation, good_request(), "the valid image")

    async def _watch_peaks(self, memory: Memory) -> None:
        """Record current and recent requests as suspects if memory jumps."""
        before = self._begin_peak(memory)
        while True:
            await asyncio.sleep(_PEAK_EVERY_S)
            if memory.resident_mb() > self.plan.server_mb:  # before the machine runs out of memory
                self._runaway(memory.resident_mb())
                return
            if memory.peak_mb() - before > self.plan.image_mb:
                for suspect in (*self._in_flight.values(), *self._recent):
                    if suspect.image is not None and len(self._suspects) < MAX_SUSPECTS:
                        self._suspects[suspect.image] = suspect
            before = self._begin_peak(memory)

    def _runaway(self, resident_mb: float) -> None:
        found = Violation("memory", f"the server used {resident_mb:.0f} MB and was killed")
        for suspect in (*self._in_flight.values(), *self._recent):
            self._failures.add(found, suspect.request, suspect.origin)
        self._ended = True
        with suppress(ProcessLookupError):
            os.kill(self._main_pid, signal.SIGKILL)

    async def _retry_suspects(self, server: Started) -> None:
        for suspect in list(self._suspects.values()):
            await self._single(suspect, Memory(server.main_pid))

    async def _settle(self, server: Started) -> None:
        await self._comparison.drain()
        await self._check_good()
        await asyncio.sleep(SETTLE_S)
        with suppress(ProcessLookupError):
            self.ledger.settled = sample(server.pid)

    def _death(self, server: Started) -> None:
        self.ledger.deaths += 1
        if not self._ended:
            self._failures.add(Violation("death", last_lines(server.log)), b"", "the server's log")


class _Reused:
    """A keep-alive connection that is reopened after the server has closed it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: Connection | None = None

    async def exchange(self, request: bytes) -> Response:
        """Send one request; raises OSError or MalformedResponse."""
        if self._connection is None or not self._connection.usable:
            self.close()
            loop = asyncio.get_running_loop()
            _, self._connection = await loop.create_connection(
                Connection, self._target.host, self._target.port
            )
        return await self._connection.exchange(request)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
