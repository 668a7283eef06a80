"""What a server does with broken, huge and empty uploads, and when it is told to stop."""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from load_tests.comparison.broken_uploads import write_broken
from load_tests.peers.catalogue import Start
from load_tests.server.process_tree import alive
from load_tests.server.start import Started, ask, running

COMPANY = 31  # good images that are sent together with a broken one
IN_FLIGHT = 16  # when the signal comes
LEFT_AFTER_S = 20.0
TIMEOUT_S = 60.0
_SAMPLE_S = 0.02
_HEAD_START_S = 0.03  # for the requests in flight to arrive; answering them takes longer


@dataclass(frozen=True)
class Behaviour:
    """One server. A status is None where no answer came."""

    name: str
    truncated: int | None
    text: int | None
    empty: int | None
    company_answered: int  # 200, of COMPANY good images beside a truncated one
    truncated_in_company: int | None
    bomb: int | None
    bomb_s: float
    bomb_growth_mb: float  # of resident memory while it was worked on, at its peak
    serves_after: bool  # a good image, after all of these
    answered_after_sigterm: int  # 200, of IN_FLIGHT
    exit_s: float | None  # from SIGTERM to the end of the main process; None is never
    left: int  # processes LEFT_AFTER_S after SIGTERM


async def observe(start: Start, good: Sequence[Path]) -> Behaviour:
    """Start the server, send it everything, stop it.

    Raises MeasurementFailed when it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
        broken = await asyncio.to_thread(write_broken, good[0], Path(folder))
        fine = start.requests(list(good))
        bad = {name: start.requests([path])[0] for name, path in broken.items()}
        async with running(start.command, start.env, start.url, fine[0]) as server:
            alone = {
                name: await _status(start, bad[name]) for name in ("truncated", "text", "empty")
            }
            company = [fine[i % len(fine)] for i in range(COMPANY)]
            company.insert(COMPANY // 2, bad["truncated"])
            together = await _at_once(start, company)
            broken_one = together.pop(COMPANY // 2)
            bomb, bomb_s, growth_mb = await _bomb(start, server, bad["bomb"])
            serves_after = await _status(start, fine[0]) == 200
            answered, exit_s, left = await _stop(start, server, fine[0])
    return Behaviour(
        name=start.name,
        **alone,
        company_answered=together.count(200),
        truncated_in_company=broken_one,
        bomb=bomb,
        bomb_s=bomb_s,
        bomb_growth_mb=growth_mb,
        serves_after=serves_after,
        answered_after_sigterm=answered,
        exit_s=exit_s,
        left=left,
    )


async def _status(start: Start, request: bytes) -> int | None:
    response = await ask(start.target, request, TIMEOUT_S)
    return None if response is None else response.status


async def _at_once(start: Start, requests: Sequence[bytes]) -> list[int | None]:
    return list(await asyncio.gather(*(_status(start, request) for request in requests)))


async def _bomb(start: Start, server: Started, request: bytes) -> tuple[int | None, float, float]:
    """(status, seconds, growth of memory in MB)."""
    before = server.resident_mb()
    begun = time.monotonic()
    answer = asyncio.create_task(_status(start, request))
    peak = before
    while not answer.done():
        peak = max(peak, server.resident_mb())
        await asyncio.wait([answer], timeout=_SAMPLE_S)
    return answer.result(), time.monotonic() - begun, peak - before


async def _stop(start: Start, server: Started, request: bytes) -> tuple[int, float | None, int]:
    """(answered of those in flight, seconds to exit, processes left)."""
    in_flight = asyncio.create_task(_at_once(start, [request] * IN_FLIGHT))
    await asyncio.sleep(_HEAD_START_S)
    begun = time.monotonic()
    with suppress(ProcessLookupError):  # the bomb may have ended it
        os.kill(server.main_pid, signal.SIGTERM)
    exit_s = None
    while server.processes() and time.monotonic() - begun < LEFT_AFTER_S:
        if exit_s is None and not alive([server.main_pid]):
            exit_s = time.monotonic() - begun
        await asyncio.sleep(_SAMPLE_S)
    if exit_s is None and not alive([server.main_pid]):
        exit_s = time.monotonic() - begun
    return (await in_flight).count(200), exit_s, len(server.processes())
