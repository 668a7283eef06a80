"""Send load and note what happened to each request.

Open loop: requests leave when the schedule says, whatever the server does, and latency runs from
that intended moment. A server that stalls is charged for the requests that it delayed, also when
they wait in this client for a free connection (no coordinated omission).
Closed loop: N clients, each waiting for its answer before it asks again.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from load_tests.client import MalformedResponse, Pool, Response

BACK_OFF_S = 0.05  # a closed-loop client whose connection failed: do not spin on a dead server


@dataclass(frozen=True)
class Outcome:
    """One request's fate; exactly one of `status` and `error` is set."""

    latency_s: float  # from the intended moment to the last byte, or to giving up
    service_s: float | None  # from the write to the last byte; None when nothing was written
    lag_s: float  # how late this client was in starting it: its own fault, not the server's
    status: int | None = None
    code: str | None = None  # the problem's code (RFC 9457), for anything but a 2xx
    retry_after_s: float | None = None
    error: str | None = None  # refused | timeout | disconnected | malformed | unreachable

    @property
    def answered(self) -> bool:
        """An image was classified or refused on its content: both cost a whole inference."""
        return self.status == 200 or self.code == "out-of-distribution"


async def open_loop(
    pool: Pool, requests: Iterator[bytes], offsets: Iterable[float], timeout_s: float
) -> list[Outcome]:
    """Start one request at each offset (seconds from now), in parallel, and await them all."""
    start = time.monotonic()
    tasks: list[asyncio.Task[Outcome]] = []
    async with asyncio.TaskGroup() as group:
        for offset in offsets:
            intended = start + offset
            # At least one await per request, late or not: a late schedule must not block replies.
            await asyncio.sleep(max(0.0, intended - time.monotonic()))
            tasks.append(group.create_task(_send(pool, next(requests), intended, timeout_s)))
    return [task.result() for task in tasks]


async def closed_loop(
    pool: Pool, requests: Iterator[bytes], clients: int, duration_s: float, timeout_s: float
) -> list[Outcome]:
    """Keep `clients` requests in flight for `duration_s`; requests begun by then are awaited."""
    end = time.monotonic() + duration_s
    outcomes: list[Outcome] = []

    async def client() -> None:
        while (now := time.monotonic()) < end:
            outcome = await _send(pool, next(requests), now, timeout_s)
            outcomes.append(outcome)
            if outcome.error is not None:
                await asyncio.sleep(BACK_OFF_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return outcomes


async def _send(pool: Pool, request: bytes, intended: float, timeout_s: float) -> Outcome:
    """One request, every failure turned into an outcome. The timeout runs from `intended`."""
    begun = time.monotonic()
    sent: float | None = None
    response: Response | None = None
    error: str | None = None
    try:
        async with asyncio.timeout(intended + timeout_s - begun), pool.connection() as connection:
            sent = time.monotonic()
            response = await connection.exchange(request)
    except TimeoutError:  # before OSError, of which it is a kind
        error = "timeout"
    except ConnectionRefusedError:
        error = "refused"
    except ConnectionError:
        error = "disconnected"
    except MalformedResponse:
        error = "malformed"
    except OSError:
        error = "unreachable"
    done = time.monotonic()
    return Outcome(
        latency_s=done - intended,
        service_s=None if sent is None else done - sent,
        lag_s=begun - intended,
        status=response.status if response else None,
        code=problem_code(response) if response else None,
        retry_after_s=_seconds(response.headers.get("retry-after")) if response else None,
        error=error,
    )


def problem_code(response: Response) -> str | None:
    """The last segment of a problem's `type`; None for a 2xx or a body that is no problem."""
    if 200 <= response.status < 300:
        return None
    try:
        problem = json.loads(response.body)
    except ValueError:
        return None
    kind = problem.get("type") if isinstance(problem, dict) else None
    return kind.rsplit("/", 1)[-1].rsplit(":", 1)[-1] if isinstance(kind, str) else None


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds; the date form and nonsense are None."""
    return float(retry_after) if retry_after and retry_after.strip().isdecimal() else None
