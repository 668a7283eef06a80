"""How soon another front end answers after one was killed under load."""

import asyncio
import os
import re
import signal
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from load_tests.client.requests import Target
from load_tests.errors import MeasurementFailed
from load_tests.generator.run import Run
from load_tests.scenarios.findings import Finding, at_most, fact
from load_tests.server.start import Started, send_request

SECONDS = 2.0
_IS_UP = re.compile(rb"front end 0 is up \(pid (\d+)\)")
_POLL_S = 0.05
_BEFORE_S = 3.0  # of load, with its warm-up
_ANSWERED = (200, 422)
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Replacement:
    """One front end that was killed."""

    seconds: float  # to an answer of the one in its place
    lost: int  # requests of the load without an answer


async def replaced(
    server: Started, load: Coroutine[None, None, Run], request: bytes
) -> Replacement:
    """Kill a front end under load, and send `request` once another one is up.

    Its connection is the first one of the new front end, which has the fewest. Raises
    MeasurementFailed if that does not come up or answer.
    """
    loading = asyncio.create_task(load)
    await asyncio.sleep(_BEFORE_S)
    victim = pid_of_first(server.log)
    killed_at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    while pid_of_first(server.log) == victim:
        if time.monotonic() > killed_at + _PATIENCE_S:
            raise MeasurementFailed("no front end came up in place of the killed one")
        await asyncio.sleep(_POLL_S)
    answer = await send_request(Target.parse(server.url), request, _PATIENCE_S)
    seconds = time.monotonic() - killed_at
    if answer is None or answer.status not in _ANSWERED:
        raise MeasurementFailed("the front end in place of the killed one does not answer")
    done = await loading
    return Replacement(seconds, sum(not one.answered for one in done.outcomes))


def findings_of_replacements(
    found: Sequence[Replacement], clients: int, front_ends: int
) -> list[Finding]:
    """Return how soon front ends were replaced, and what was lost."""
    named = f"a killed one of {front_ends} front ends, {clients} clients: "
    most = -(-clients // front_ends)  # the connections that it had
    return [
        fact(f"{named}another answers, median", median(one.seconds for one in found), "s"),
        at_most(f"{named}at the latest", max(one.seconds for one in found), SECONDS, "s"),
        at_most(f"{named}requests lost, at most", max(one.lost for one in found), most, ""),
    ]


def pid_of_first(log: Path) -> int:
    """Return the process of front end 0, as it was started last."""
    pids = _IS_UP.findall(log.read_bytes())
    if not pids:
        raise MeasurementFailed("front end 0 was not started")
    return int(pids[-1])
