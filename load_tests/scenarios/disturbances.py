"""Disturbing clients that should not affect the other clients of a server."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from load_tests.client.connection import Pool
from load_tests.client.requests import Target
from load_tests.generator.arrivals import poisson
from load_tests.generator.loops import Outcome, Sender, open_loop

UPLOAD_BYTES_PER_S = 1000
_TICK_S = 1.0  # a slow client sends the bytes of one second once per second


@dataclass(frozen=True)
class Disturbed:
    """Outcomes of the disturbing clients, and the time at which the last one ended."""

    calm_at_s: float  # time.monotonic()
    fates: Counter[str]


# Disturbs at most until the given time (time.monotonic()).
Disturb = Callable[[float], Awaitable[Disturbed]]


def burst(target: Target, requests: Sequence[bytes], count: int, timeout_s: float) -> Disturb:
    """Return a disturbance by `count` concurrent requests, each on a separate connection."""

    async def disturb(until_s: float) -> Disturbed:
        outcomes: list[Outcome] = []
        pool = Pool(target.host, target.port, count)
        sender = Sender(pool, itertools.cycle(requests), timeout_s, outcomes.append)
        now = time.monotonic()
        try:
            await asyncio.gather(*(sender.send(now) for _ in range(count)))
        finally:
            pool.close()
        return Disturbed(time.monotonic(), Counter(map(_fate, outcomes)))

    return disturb


def vanishing(
    target: Target, requests: Sequence[bytes], rate: float, timeout_s: float, seed: int
) -> Disturb:
    """Return a disturbance by Poisson arrivals of clients that disconnect soon after sending."""

    async def disturb(until_s: float) -> Disturbed:
        outcomes: list[Outcome] = []
        pool = Pool(target.host, target.port, 512)
        cycle = itertools.cycle(requests)
        sender = Sender(pool, cycle, timeout_s, outcomes.append, vanish=1.0)
        try:
            await open_loop(sender, poisson(rate, until_s - time.monotonic(), seed))
        finally:
            pool.close()
        return Disturbed(time.monotonic(), Counter(map(_fate, outcomes)))

    return disturb


def slow_uploads(target: Target, requests: Sequence[bytes], count: int, seed: int) -> Disturb:
    """Return a disturbance by `count` clients that send at 1 kB/s and never finish."""

    async def disturb(until_s: float) -> Disturbed:
        rng = random.Random(seed)
        clients = (
            _upload_slowly(target, request, rng.random() * _TICK_S, until_s)
            for request, _ in zip(itertools.cycle(requests), range(count), strict=False)
        )
        fates = await asyncio.gather(*clients)
        return Disturbed(time.monotonic(), Counter(fates))

    return disturb


async def _upload_slowly(target: Target, request: bytes, start_s: float, until_s: float) -> str:
    """Run one slow client; return `uploading`, `answered`, `disconnected` or `unreachable`."""
    await asyncio.sleep(start_s)
    try:
        reader, writer = await asyncio.open_connection(target.host, target.port)
    except OSError:
        return "unreachable"
    try:
        body = request.index(b"\r\n\r\n") + 4
        writer.write(request[:body])
        for start in range(body, len(request), UPLOAD_BYTES_PER_S):
            writer.write(request[start : start + UPLOAD_BYTES_PER_S])
            pause_s = min(_TICK_S, until_s - time.monotonic())
            if pause_s <= 0:
                break
            try:
                async with asyncio.timeout(pause_s):
                    return "answered" if await reader.read(1) else "disconnected"
            except TimeoutError:
                pass  # the server still waits for the body, as it should
    except ConnectionError:
        return "disconnected"
    finally:
        writer.transport.abort()
    return "uploading"


def _fate(outcome: Outcome) -> str:
    if outcome.vanished:
        return "vanished"
    if outcome.answered:
        return "answered"
    return outcome.error or f"status {outcome.status}"
