"""Behaviour of a server on broken, huge and empty uploads, and on SIGTERM."""

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
from load_tests.server.start import Started, running, send_request

OTHERS = 31  # valid images that are sent together with a broken one
IN_FLIGHT = 16  # requests in flight at SIGTERM
LEFT_AFTER_S = 20.0
TIMEOUT_S = 60.0
_SAMPLE_S = 0.02
_HEAD_START_S = 0.03  # for the requests to arrive; answering them takes longer


@dataclass(frozen=True)
class Behaviour:
    """Results of one server. A status is None if there was no answer."""

    name: str
    truncated: int | None
    text: int | None
    empty: int | None
    company_answered: int  # answered 200, of OTHERS valid images sent with a truncated one
    truncated_in_company: int | None
    bomb: int | None
    bomb_s: float
    bomb_growth_mb: float  # peak growth of resident memory
    serves_after: bool  # answers a valid image afterwards
    answered_after_sigterm: int  # answered 200, of IN_FLIGHT
    exit_s: float | None  # from SIGTERM to the exit of the main process; None if it never exits
    left: int  # processes LEFT_AFTER_S after SIGTERM


async def observe(start: Start, good: Sequence[Path]) -> Behaviour:
    """Start the server, send every upload, and stop it.

    Raises MeasurementFailed if it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
        broken = await asyncio.to_thread(write_broken, good[0], Path(folder))
        fine = start.requests(list(good))
        bad = {name: start.requests([path])[0] for name, path in broken.items()}
        async with running(start.command, start.env, start.url, fine[0]) as server:
            single = {
                name: await _status(start, bad[name]) for name in ("truncated", "text", "empty")
            }
            mixed = [fine[i % len(fine)] for i in range(OTHERS)]
            mixed.insert(OTHERS // 2, bad["truncated"])
            together = await _at_once(start, mixed)
            broken_one = together.pop(OTHERS // 2)
            bomb, bomb_s, growth_mb = await _bomb(start, server, bad["bomb"])
            serves_after = await _status(start, fine[0]) == 200
            answered, exit_s, left = await _stop(start, server, fine[0])
    return Behaviour(
        name=start.name,
        **single,
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
    response = await send_request(start.target, request, TIMEOUT_S)
    return None if response is None else response.status


async def _at_once(start: Start, requests: Sequence[bytes]) -> list[int | None]:
    return list(await asyncio.gather(*(_status(start, request) for request in requests)))


async def _bomb(start: Start, server: Started, request: bytes) -> tuple[int | None, float, float]:
    """Return (status, seconds, growth of memory in MB)."""
    before = server.resident_mb()
    begun = time.monotonic()
    answer = asyncio.create_task(_status(start, request))
    peak = before
    while not answer.done():
        peak = max(peak, server.resident_mb())
        await asyncio.wait([answer], timeout=_SAMPLE_S)
    return answer.result(), time.monotonic() - begun, peak - before


async def _stop(start: Start, server: Started, request: bytes) -> tuple[int, float | None, int]:
    """Return (answered of those in flight, seconds to exit, processes left)."""
    in_flight = asyncio.create_task(_at_once(start, [request] * IN_FLIGHT))
    await asyncio.sleep(_HEAD_START_S)
    begun = time.monotonic()
    with suppress(ProcessLookupError):  # the bomb may have crashed it
        os.kill(server.main_pid, signal.SIGTERM)
    exit_s = None
    while server.processes() and time.monotonic() - begun < LEFT_AFTER_S:
        if exit_s is None and not alive([server.main_pid]):
            exit_s = time.monotonic() - begun
        await asyncio.sleep(_SAMPLE_S)
    if exit_s is None and not alive([server.main_pid]):
        exit_s = time.monotonic() - begun
    return (await in_flight).count(200), exit_s, len(server.processes())
