"""Run `tidegate classify`, watch its memory, and kill it."""

import asyncio
import json
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load_tests.errors import MeasurementFailed
from load_tests.server.sampling import Sample, watching

SAMPLE_EVERY_S = 2.0
_POLL_S = 0.05
_LONGEST_DELAY_S = 4.0  # after a part, before the kill


@dataclass(frozen=True)
class Job:
    """One job of the command."""

    sources: Sequence[Path]
    bundle: Path
    out: Path
    part_images: int
    processes: int

    @property
    def command(self) -> list[str]:
        """Return the words that start or continue it."""
        words = [sys.executable, "-m", "tidegate.service", "classify", *map(str, self.sources)]
        words += ["--bundle", str(self.bundle), "--out", str(self.out), "--resume"]
        words += ["--part-images", str(self.part_images), "--workers", str(self.processes)]
        return words

    def parts(self) -> int:
        """Return how many parts are whole so far."""
        return len(list(self.out.with_name(f".{self.out.name}.parts").glob("part-*.json")))

    def summary(self) -> dict[str, Any]:
        """Return the summary of the finished job."""
        found: dict[str, Any] = json.loads(
            self.out.with_name(f"{self.out.name}.summary.json").read_text("utf-8")
        )
        return found


async def finish(job: Job) -> list[Sample]:
    """Run a job to its end; return samples of the memory of all its processes."""
    process = await _start(job)
    async with watching(process.pid, SAMPLE_EVERY_S) as samples:
        _, errors = await process.communicate()
    if process.returncode:
        raise MeasurementFailed(f"tidegate classify failed: {errors.decode(errors='replace')}")
    return samples


async def kill_often(job: Job, kills: int, rng: random.Random) -> int:
    """Run a job, kill it with SIGKILL after some more parts, again and again, then finish it.

    Returns how many times it was killed: fewer than `kills` if it finished before.
    """
    for done in range(kills):
        process = await _start(job)
        wanted = job.parts() + rng.randint(0, 2)
        while job.parts() < wanted and not await _ends(process, _POLL_S):
            pass
        if await _ends(process, rng.uniform(0.0, _LONGEST_DELAY_S)):
            return done
        process.send_signal(signal.SIGKILL)
        await process.communicate()
    await finish(job)
    return kills


async def _ends(process: asyncio.subprocess.Process, within_s: float) -> bool:
    try:
        await asyncio.wait_for(process.wait(), within_s)
    except TimeoutError:
        return False
    return True


async def _start(job: Job) -> asyncio.subprocess.Process:
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*job.command, stdin=null, stdout=null, stderr=pipe)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Return the rows of a result in JSONL."""
    with out.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
