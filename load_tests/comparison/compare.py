"""Measure our server, its peers and the bare loop in turn, in one run, on the same images.

By default all run, and those not being measured are stopped (SIGSTOP to their process tree),
because some poll for work and would use CPU. With one at a time, each is started for its turn. A
block is one load on all servers, in a new order each round; with one at a time it is every load on
one server. The bare loop is part of each block.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from load_tests.client.requests import find_images
from load_tests.comparison.baseline import Loop, Pace, bare_loop
from load_tests.comparison.ratios import BARE, BARE_ALL_CORES, ONE, OVERLOAD, Measured
from load_tests.errors import MeasurementFailed
from load_tests.generator.run import Load, drive
from load_tests.peers.catalogue import OURS, PEERS, Start, start_ours, start_peer
from load_tests.peers.plain_classifier import Classifier
from load_tests.server.process_tree import pause, resume
from load_tests.server.start import Started, running, send_request

WARM_UP_SHARE = 0.2  # warm-up before a round, as a share of its length
DEADLINE_MS = 250.0  # in overload
SETTLE_S = 30.0
CHECKED_IMAGES = 32
TIE = 0.01  # rounding can swap the order of probabilities closer than this
_MB_PER_SERVER = 1200  # memory of the largest of them
_CLASS_ID = re.compile(rb'"class_id"\s*:\s*(\d+)')

Log = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """One comparison."""

    model: Path  # folder of the plain model, see load_tests.peers.plain_classifier
    bundle: Path  # bundle of the same model
    images: tuple[Path, ...]
    peers: tuple[str, ...]
    environments: Path
    concurrency: tuple[int, ...] = (8, 32, 64)
    rounds: int = 5
    round_s: float = 5.0
    overload_per_s: float | None = None
    batch: int | None = None  # largest batch of the peers; None uses each peer's setting
    one_at_a_time: bool = False
    seed: int = 0
    also: Path | None = None  # bundle of the model in another precision, served by `also_engine`
    also_engine: str = "onnx-cpu"

    @property
    def also_name(self) -> str | None:
        """Return the name of the second server of ours."""
        return None if self.also is None else f"{OURS}, {self.also_engine}"

    @property
    def loads(self) -> dict[str, Load]:
        """Every load by name, the overload last."""
        warm_up_s = self.round_s * WARM_UP_SHARE
        closed = {
            f"{n} clients": Load(self.round_s, clients=n, warm_up_s=warm_up_s)
            for n in self.concurrency
        }
        one = {ONE: Load(self.round_s, clients=1, warm_up_s=warm_up_s)}
        if self.overload_per_s is None:
            return closed | one
        over = Load(self.round_s, rate=self.overload_per_s, deadline_ms=DEADLINE_MS)
        return closed | one | {OVERLOAD: over}


@dataclass
class Comparison:
    """Results. `refused` has the reason for each server that was not measured."""

    measured: list[Measured] = field(default_factory=list)
    cold_start_s: dict[str, list[float]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Contestant:
    start: Start
    server: Started


async def compare(plan: Plan, log: Log) -> Comparison:
    """Measure every round; `log` receives lines of progress.

    Raises MeasurementFailed if our own server or the bare loop cannot be measured, ValueError if
    there is not enough memory for all servers. A peer that fails is left out with the reason.
    """
    if not plan.one_at_a_time:
        _check_memory(len(plan.peers) + 1)
    expected = await asyncio.to_thread(_expected, plan)
    result = Comparison()
    order = random.Random(plan.seed)
    async with AsyncExitStack() as stack:
        loops = {
            folder: await stack.enter_async_context(bare_loop(plan.model, folder))
            for folder in plan.images
        }
        turns = _Turns(plan, loops, expected, result, log)
        if plan.one_at_a_time:
            for number in range(plan.rounds):
                await turns.one_at_a_time(number, order)
            return result
        contestants = []
        for name in filter(None, (OURS, plan.also_name, *plan.peers)):
            contestant = await turns.enter(stack, name)
            contestants += [contestant] if contestant else []
        for number in range(plan.rounds):
            await turns.all_at_once(number, order, contestants)
    return result


@dataclass(frozen=True)
class _Turns:
    plan: Plan
    loops: dict[Path, Loop]
    expected: dict[Path, list[frozenset[int]]]
    result: Comparison
    log: Log

    async def all_at_once(
        self, number: int, order: random.Random, contestants: Sequence[_Contestant]
    ) -> None:
        for folder in self.plan.images:
            for load_name, load in self.plan.loads.items():
                block: list[_Contestant | None] = [None, *contestants]  # None is the bare loop
                for contestant in order.sample(block, len(block)):
                    if contestant is None:
                        await self._bare(number, folder, load_name, load_name)
                    elif contestant.start.name not in self.result.refused:
                        await self._served(number, folder, load_name, load, contestant, load_name)

    async def one_at_a_time(self, number: int, order: random.Random) -> None:
        names = [n for n in (OURS, *self.plan.peers) if n not in self.result.refused]
        for name in order.sample(names, len(names)):
            async with AsyncExitStack() as stack:
                contestant = await self.enter(stack, name)
                if contestant is None:
                    continue
                for folder in self.plan.images:
                    for load_name, load in self.plan.loads.items():
                        await self._bare(number, folder, load_name, name)
                        await self._served(number, folder, load_name, load, contestant, name)

    async def enter(self, stack: AsyncExitStack, name: str) -> _Contestant | None:
        """Start a server, check its answers and pause it; None if it fails, with the reason noted.

        A failure of our own server is raised.
        """
        try:
            contestant = await stack.enter_async_context(self._started(name))
        except (MeasurementFailed, FileNotFoundError) as error:
            if name == OURS:
                raise
            self.result.refused[name] = str(error)
            self.log(f"{name} is left out: {error}")
            return None
        self.result.cold_start_s.setdefault(name, []).append(contestant.server.cold_start_s)
        return contestant

    @asynccontextmanager
    async def _started(self, name: str) -> AsyncIterator[_Contestant]:
        plan = self.plan
        another_precision = name == plan.also_name
        if another_precision and plan.also is not None:
            start = start_ours(plan.also, name, {"TIDEGATE_ENGINE": plan.also_engine})
        else:
            start = start_of(name, plan.model, plan.bundle, plan.environments, plan.batch)
        first = start.requests(find_images(plan.images[0])[:1])[0]
        async with running(start.command, start.env, start.url, first) as server:
            for folder, wanted in () if another_precision else self.expected.items():
                await _check_answers(start, find_images(folder), wanted)
            answers = "another precision" if another_precision else "same answers as the loop"
            self.log(f"{name} ready after {server.cold_start_s:.1f} s; {answers}")
            pause(server.pid)
            yield _Contestant(start, server)

    async def _served(
        self,
        number: int,
        folder: Path,
        load_name: str,
        load: Load,
        contestant: _Contestant,
        block: str,
    ) -> None:
        start, server = contestant.start, contestant.server
        requests = start.requests(find_images(folder), load.deadline_ms)
        resume(server.pid)
        try:
            report = (await drive(start.target, requests, load, server_pid=server.pid)).report
            resident_mb = server.resident_mb()
            if load_name == OVERLOAD:
                await _settle(start, requests[0])
        except ProcessLookupError:
            if start.name == OURS:
                raise MeasurementFailed(f"{OURS} exited under {load_name}") from None
            self.result.refused[start.name] = f"it exited under {load_name}"
            self.log(f"{start.name} exited under {load_name} and is left out from now on")
            return
        finally:
            pause(server.pid)
        answered = max(report.answered, 1)
        self._note(
            Measured(
                images=folder.name,
                round=number,
                block=block,
                name=start.name,
                load=load_name,
                per_s=report.throughput,
                cpu_ms=report.server_cpu_ms_per_image,
                p50_ms=report.latency_ms.get("p50"),
                p99_ms=report.latency_ms.get("p99"),
                goodput=report.goodput,
                failed=report.requests - report.answered,
                client_cpu_ms=report.client_cpu_s * 1e3 / answered,
                resident_mb=resident_mb,
            )
        )

    async def _bare(self, number: int, folder: Path, load_name: str, block: str) -> None:
        loop, seconds = self.loops[folder], self.plan.round_s

        def note(name: str, pace: Pace) -> None:
            m = Measured(
                images=folder.name,
                round=number,
                block=block,
                name=name,
                load=load_name,
                per_s=pace.per_s,
                cpu_ms=pace.cpu_ms,
                p50_ms=pace.p50_ms,
            )
            self._note(m)

        if load_name == ONE:
            note(BARE, await loop.single(seconds))
            note(BARE_ALL_CORES, await loop.single_on_all_cores(seconds))
        elif load_name != OVERLOAD:
            note(BARE, await loop.together(seconds))

    def _note(self, m: Measured) -> None:
        self.result.measured.append(m)
        cpu = "" if m.cpu_ms is None else f", {m.cpu_ms:.2f} CPU ms"
        self.log(f"round {m.round + 1}, {m.images}, {m.load}: {m.name} {m.per_s:.1f} images/s{cpu}")


def start_of(name: str, model: Path, bundle: Path, environments: Path, batch: int | None) -> Start:
    """Return how to start the server `name`. Raises FileNotFoundError if it is not installed."""
    if name == OURS:
        return start_ours(bundle)
    return start_peer(PEERS[name], environments, model, batch)


def served_class(body: bytes) -> int | None:
    """Return the most probable class of an answer: its first `class_id`, at any depth."""
    found = _CLASS_ID.search(body)
    return int(found[1]) if found else None


def _expected(plan: Plan) -> dict[Path, list[frozenset[int]]]:
    """Return for each image the classes that may be first: one, or several if nearly tied."""
    classifier = Classifier(plan.model)
    return {
        folder: [
            _first(classifier.classify(path.read_bytes()))
            for path in find_images(folder)[:CHECKED_IMAGES]
        ]
        for folder in plan.images
    }


def _first(answer: dict[str, object]) -> frozenset[int]:
    predictions = answer["predictions"]
    assert isinstance(predictions, list)  # noqa: S101  # narrows for the type checker
    best = predictions[0]["probability"]
    return frozenset(p["class_id"] for p in predictions if p["probability"] >= best - TIE)


async def _check_answers(
    start: Start, paths: Sequence[Path], expected: Sequence[frozenset[int]]
) -> None:
    """Raise MeasurementFailed unless every image has the same class as in the bare loop."""
    checked = list(paths[: len(expected)])
    for path, request, right in zip(checked, start.requests(checked), expected, strict=True):
        response = await send_request(start.target, request, 30.0)
        status = "no response" if response is None else response.status
        found = None if response is None else served_class(response.body)
        if status != 200 or found not in right:
            raise MeasurementFailed(
                f"{start.name} answers {path.name} with {status} and class {found}, "
                f"but the bare loop gives {' or '.join(map(str, sorted(right)))}"
            )


async def _settle(start: Start, request: bytes) -> None:
    """Wait at most SETTLE_S until the backlog of an overload is processed."""
    try:
        async with asyncio.timeout(SETTLE_S):
            while True:
                response = await send_request(start.target, request, 1.0)
                if response is not None and response.status == 200:
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        return


def _check_memory(servers: int) -> None:
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    available = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    needed_mb = servers * _MB_PER_SERVER
    if available and int(available[1]) // 1024 < needed_mb:
        raise ValueError(f"{servers} servers need about {needed_mb} MB: try --one-at-a-time")
