"""Memory, threads and open files of a server, sampled under load."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from load_tests.server.usage import usage


@dataclass(frozen=True)
class Sample:
    """A process tree at one moment (seconds on the clock of time.monotonic())."""

    at_s: float
    rss_mb: float
    threads: int
    open_files: int | None


def sample(pid: int) -> Sample:
    """Take one sample; raises ProcessLookupError if the process is gone."""
    now = usage(pid)
    return Sample(time.monotonic(), now.rss_mb, now.threads, now.open_files)


@asynccontextmanager
async def watching(pid: int, every_s: float = 1.0) -> AsyncIterator[list[Sample]]:
    """Yield a list that grows by a sample every `every_s` until the block ends.

    Sampling stops if the process ends; the list keeps the samples up to then.
    """
    samples = [sample(pid)]

    async def sample_repeatedly() -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                samples.append(sample(pid))
            except ProcessLookupError:
                return

    watcher = asyncio.create_task(sample_repeatedly())
    try:
        yield samples
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
