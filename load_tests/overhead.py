"""What serving adds to the bare loop: both measured in turns, in one run, on the same images.

Interleaving matters: on a shared machine two numbers taken minutes apart differ by more than the
overhead. CPU per image is the robust ratio; throughput also pays for this client's own CPU.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from load_tests.client import Pool
from load_tests.generate import closed_loop
from load_tests.images import Target, build_requests, find_images, shuffled_forever
from load_tests.process import usage

START_TIMEOUT_S = 60.0
ROUND_GRACE_S = 30.0
WARM_UP_S = 1.0


@dataclass(frozen=True)
class Plan:
    """One overhead measurement."""

    model: Path
    target: Target
    server_pid: int
    images: Path
    clients: int = 32
    processes: int = 2
    rounds: int = 5
    round_s: float = 5.0
    timeout_s: float = 10.0
    seed: int = 0


@dataclass(frozen=True)
class Round:
    """Served and bare, one after the other."""

    served_per_s: float
    served_cpu_ms: float  # the server's, per answered image
    client_cpu_ms: float  # this process's, per answered image
    bare_per_s: float
    bare_cpu_ms: float
    failed: int  # requests of this round that were not answered

    @property
    def cpu_ratio(self) -> float:
        return self.served_cpu_ms / self.bare_cpu_ms

    @property
    def throughput_ratio(self) -> float:
        return self.served_per_s / self.bare_per_s


class MeasurementFailed(Exception):
    """A round gave nothing to divide by, or a bare process died."""


async def measure(plan: Plan) -> list[Round]:
    """Run every round; raises MeasurementFailed rather than report a ratio of nothing."""
    requests = shuffled_forever(
        build_requests(find_images(plan.images), plan.target, None), plan.seed
    )
    pool = Pool(plan.target.host, plan.target.port, plan.clients)
    try:
        async with _bare_processes(plan) as bare:
            await closed_loop(pool, requests, plan.clients, WARM_UP_S, plan.timeout_s)
            return [await _round(plan, pool, requests, bare) for _ in range(plan.rounds)]
    finally:
        pool.close()


def summary(rounds: list[Round]) -> dict[str, float]:
    """Medians over the rounds: each ratio is taken within its round first."""
    return {
        "cpu_ratio": median(r.cpu_ratio for r in rounds),
        "throughput_ratio": median(r.throughput_ratio for r in rounds),
        "served_cpu_ms": median(r.served_cpu_ms for r in rounds),
        "bare_cpu_ms": median(r.bare_cpu_ms for r in rounds),
        "client_cpu_ms": median(r.client_cpu_ms for r in rounds),
        "served_per_s": median(r.served_per_s for r in rounds),
        "bare_per_s": median(r.bare_per_s for r in rounds),
    }


async def _round(
    plan: Plan, pool: Pool, requests: Iterator[bytes], bare: list[asyncio.subprocess.Process]
) -> Round:
    before, cpu, wall = usage(plan.server_pid), time.process_time(), time.monotonic()
    outcomes = await closed_loop(pool, requests, plan.clients, plan.round_s, plan.timeout_s)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    server = usage(plan.server_pid).since(before)
    answered = sum(o.answered for o in outcomes)
    if not answered:
        raise MeasurementFailed(f"none of {len(outcomes)} requests was answered")

    results = await asyncio.gather(*(_bare_round(p, plan.round_s) for p in bare))
    images = sum(r["images"] for r in results)
    return Round(
        served_per_s=answered / wall,
        served_cpu_ms=server.cpu_s * 1e3 / answered,
        client_cpu_ms=cpu * 1e3 / answered,
        bare_per_s=sum(r["images"] / r["wall_s"] for r in results),
        bare_cpu_ms=sum(r["cpu_s"] for r in results) * 1e3 / images,
        failed=len(outcomes) - answered,
    )


async def _bare_round(process: asyncio.subprocess.Process, seconds: float) -> dict[str, float]:
    assert process.stdin is not None  # noqa: S101  # narrows for the type checker
    process.stdin.write(f"{seconds}\n".encode())
    return await _answer(process, seconds + ROUND_GRACE_S)


async def _answer(process: asyncio.subprocess.Process, timeout_s: float) -> dict[str, float]:
    assert process.stdout is not None  # noqa: S101  # narrows for the type checker
    async with asyncio.timeout(timeout_s):
        line = await process.stdout.readline()
    if not line:
        raise MeasurementFailed(f"a bare process ended early (code {await process.wait()})")
    answer: dict[str, float] = json.loads(line)
    return answer


@asynccontextmanager
async def _bare_processes(plan: Plan) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Start the bare processes, wait until each has loaded its session, end them on the way out."""
    processes: list[asyncio.subprocess.Process] = []
    try:
        for i in range(plan.processes):
            # One by one: when a later start fails, the earlier ones are listed, and so ended.
            processes.append(await _start_bare(plan, offset=i * 7))  # noqa: PERF401
        for process in processes:
            await _answer(process, START_TIMEOUT_S)
        yield processes
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _start_bare(plan: Plan, offset: int) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "load_tests.bare", "--offset", str(offset)]
    command += ["--model", str(plan.model), "--images", str(plan.images)]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
