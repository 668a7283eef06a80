"""What a server holds, sampled while it works."""

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
    """Look once; raises ProcessLookupError when the process is gone."""
    held = usage(pid)
    return Sample(time.monotonic(), held.rss_mb, held.threads, held.open_files)


@asynccontextmanager
async def watching(pid: int, every_s: float = 1.0) -> AsyncIterator[list[Sample]]:
    """Lend a list that grows by a sample every `every_s` until the block ends.

    A process that ends stops the sampling; the list tells how far it came.
    """
    samples = [sample(pid)]

    async def look() -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                samples.append(sample(pid))
            except ProcessLookupError:
                return

    watcher = asyncio.create_task(look())
    try:
        yield samples
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
