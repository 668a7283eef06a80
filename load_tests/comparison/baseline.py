"""Controls the bare loop's processes: starts them, runs rounds, stops them."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from load_tests.errors import MeasurementFailed

START_TIMEOUT_S = 60.0
ROUND_GRACE_S = 30.0
_STRIDE = 7  # offset of the first image between processes, so that they are not in step


@dataclass(frozen=True)
class Pace:
    """Result of a round of the bare loop, over all its processes."""

    per_s: float
    cpu_ms: float  # per image
    p50_ms: float  # of one image in one process


@dataclass(frozen=True)
class Loop:
    """Started processes that wait for rounds; they use no CPU while waiting."""

    processes: Sequence[asyncio.subprocess.Process]
    cores: int

    async def together(self, seconds: float) -> Pace:
        """Run all processes concurrently, one thread each."""
        return await self._round(self.processes, f"{seconds}")

    async def single(self, seconds: float) -> Pace:
        """Run one process with one thread: the latency of an image on an idle machine."""
        return await self._round(self.processes[:1], f"{seconds}")

    async def single_on_all_cores(self, seconds: float) -> Pace:
        """Run one process whose model has one thread per core."""
        return await self._round(self.processes[:1], f"{seconds} {self.cores}")

    async def _round(self, processes: Sequence[asyncio.subprocess.Process], line: str) -> Pace:
        seconds = float(line.partition(" ")[0])
        for process in processes:
            assert process.stdin is not None  # noqa: S101  # narrows for the type checker
            process.stdin.write(f"{line}\n".encode())
        answers = await asyncio.gather(*(_answer(p, seconds + ROUND_GRACE_S) for p in processes))
        images = sum(a["images"] for a in answers)
        return Pace(
            per_s=sum(a["images"] / a["wall_s"] for a in answers),
            cpu_ms=sum(a["cpu_s"] for a in answers) * 1e3 / images,
            p50_ms=sum(a["p50_ms"] for a in answers) / len(answers),
        )


@asynccontextmanager
async def bare_loop(model: Path, images: Path, processes: int = 2) -> AsyncIterator[Loop]:
    """Start the processes, wait until each has loaded its model, and kill them at the end.

    Raises MeasurementFailed if one exits early.
    """
    cores = len(os.sched_getaffinity(0))
    started: list[asyncio.subprocess.Process] = []
    try:
        for i in range(processes):
            # One by one: if a later start fails, the earlier processes are listed and killed.
            process = await _start(model, images, i * _STRIDE, {1, cores} if i == 0 else {1})
            started.append(process)
        for process in started:
            await _answer(process, START_TIMEOUT_S)
        yield Loop(started, cores)
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _start(
    model: Path, images: Path, offset: int, threads: set[int]
) -> asyncio.subprocess.Process:
    command = [
        sys.executable,
        "-m",
        "load_tests.comparison.baseline_process",
        "--offset",
        str(offset),
    ]
    command += ["--model", str(model), "--images", str(images)]
    command += ["--threads", *map(str, sorted(threads))]
    pipe = asyncio.subprocess.PIPE
    # In a new session, so that a terminal's interrupt does not reach it: we kill it.
    return await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, start_new_session=True
    )


async def _answer(process: asyncio.subprocess.Process, timeout_s: float) -> dict[str, float]:
    assert process.stdout is not None  # noqa: S101  # narrows for the type checker
    try:
        async with asyncio.timeout(timeout_s):
            line = await process.stdout.readline()
    except TimeoutError as error:
        raise MeasurementFailed("a process of the bare loop does not answer") from error
    if not line:
        raise MeasurementFailed(
            f"a process of the bare loop exited early (code {await process.wait()})"
        )
    answer: dict[str, float] = json.loads(line)
    return answer
