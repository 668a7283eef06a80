"""Send load and record the outcome of each request.

Open loop: requests are sent on a schedule that does not depend on the server, and latency counts
from the intended time. It includes all delays by a stalled server, even the wait for a free
connection in this client (no coordinated omission).
Closed loop: N clients, each of which waits for its answer before the next request.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from load_tests.client.connection import MalformedResponse, Pool, Response

BACK_OFF_S = 0.05  # pause of a closed-loop client after a failed connection
VANISH_WITHIN_S = 0.05  # a vanishing client disconnects at most this long after sending


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one request; exactly one of `status`, `error` and `vanished` is set."""

    latency_s: float  # from the intended time to the last byte, or to the failure
    service_s: float | None  # from the write to the last byte; None if nothing was written
    lag_s: float  # delay of the start by this client, not by the server
    status: int | None = None
    code: str | None = None  # the problem's code (RFC 9457), for anything but a 2xx
    retry_after_s: float | None = None
    error: str | None = None  # refused | timeout | disconnected | malformed | unreachable
    vanished: bool = False  # this client disconnected on purpose
    at_s: float = 0.0  # the intended time, on the clock of time.monotonic()
    predicted_ms: float | None = None  # the server's prediction of total_ms, if requested
    total_ms: float | None = None  # the server's own measurement, from the answer

    @property
    def answered(self) -> bool:
        """Whether an image was classified or rejected as OOD: both cost a whole inference."""
        return self.status == 200 or self.code == "out-of-distribution"

    @property
    def refused(self) -> bool:
        """Whether there was any other response."""
        return self.status is not None and not self.answered

    @property
    def ended_at_s(self) -> float:
        """Time of the last byte, on the clock of time.monotonic()."""
        return self.at_s + self.latency_s


@dataclass
class Sender:
    """Sends the next request and records its outcome; every failure becomes an outcome.

    `vanish` is the share of requests whose client disconnects after sending, at a random time in
    [0, VANISH_WITHIN_S). With `predictions` every 200's body is parsed, which uses CPU.
    `on_response` gets each request that got a response.
    """

    pool: Pool
    requests: Iterator[bytes]
    timeout_s: float  # from the intended time
    note: Callable[[Outcome], None]
    vanish: float = 0.0
    predictions: bool = False
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    on_response: Callable[[bytes, Response], None] = lambda request, response: None

    async def send(self, intended: float) -> Outcome:
        """Send one request whose intended time is `intended` (time.monotonic())."""
        begun = time.monotonic()
        sent: float | None = None
        request: bytes | None = None
        response: Response | None = None
        error: str | None = None
        stay_s = self._stay_s()
        try:
            async with asyncio.timeout(intended + self.timeout_s - begun):
                connection = await self.pool.acquire()
                try:
                    request = next(self.requests)
                    sent = time.monotonic()
                    if stay_s is None:
                        response = await connection.exchange(request)
                    else:
                        await connection.send_and_vanish(request, stay_s)
                finally:
                    self.pool.release(connection)
        except TimeoutError:  # before OSError, its base class
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
        if request is not None and response is not None:
            self.on_response(request, response)
        predicted_ms, total_ms = _prediction(response) if self.predictions else (None, None)
        outcome = Outcome(
            latency_s=done - intended,
            service_s=None if sent is None else done - sent,
            lag_s=begun - intended,
            status=response.status if response else None,
            code=problem_code(response) if response else None,
            retry_after_s=_seconds(response.header("retry-after")) if response else None,
            error=error,
            vanished=response is None and error is None,
            at_s=intended,
            predicted_ms=predicted_ms,
            total_ms=total_ms,
        )
        self.note(outcome)
        return outcome

    def _stay_s(self) -> float | None:
        if not self.vanish or self.rng.random() >= self.vanish:
            return None
        return self.rng.uniform(0, VANISH_WITHIN_S)


async def open_loop(sender: Sender, offsets: Iterable[float]) -> None:
    """Start one request at each offset (seconds from now), concurrently, and await them all."""
    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for offset in offsets:
            intended = start + offset
            # At least one await per request: a late schedule must not block the answers.
            await asyncio.sleep(max(0.0, intended - time.monotonic()))
            group.create_task(sender.send(intended))


async def closed_loop(sender: Sender, clients: int, duration_s: float) -> None:
    """Keep `clients` requests in flight for `duration_s`; then await the requests in flight."""
    end = time.monotonic() + duration_s

    async def client() -> None:
        while (now := time.monotonic()) < end:
            outcome = await sender.send(now)
            if outcome.error is not None:
                await asyncio.sleep(BACK_OFF_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())


def problem_code(response: Response) -> str | None:
    """Return the last segment of a problem's `type`; None for a 2xx or any other body."""
    if 200 <= response.status < 300:
        return None
    problem = _json_object(response.body)
    kind = problem.get("type")
    return kind.rsplit("/", 1)[-1].rsplit(":", 1)[-1] if isinstance(kind, str) else None


def _prediction(response: Response | None) -> tuple[float | None, float | None]:
    """Return (predicted, actual) milliseconds of a 200 that contains both, otherwise Nones.

    The prediction is `Server-Timing: predicted;dur=41.2`, the actual time the body's
    `timing_ms.total`.
    """
    if response is None or response.status != 200:
        return None, None
    timing = _json_object(response.body).get("timing_ms")
    total = timing.get("total") if isinstance(timing, dict) else None
    predicted = _predicted_ms(response.header("server-timing") or "")
    if predicted is None or not isinstance(total, int | float):
        return None, None
    return predicted, float(total)


def _predicted_ms(server_timing: str) -> float | None:
    for metric in server_timing.split(","):
        name, *parameters = (part.strip() for part in metric.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if name == "predicted" and key == "dur":
                try:
                    return float(value)
                except ValueError:
                    return None
    return None


def _json_object(body: bytes) -> dict[str, object]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _seconds(retry_after: str | None) -> float | None:
    """Return `Retry-After` in seconds; None for the date form and invalid values."""
    return float(retry_after) if retry_after and retry_after.strip().isdecimal() else None
