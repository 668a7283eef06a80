"""Load two servers at once, so that whatever the machine does meanwhile, it does to both.

On a shared machine the same code costs up to half as much again from one second to the next. Two
windows that follow each other differ by that; two servers in the same window do not.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from load_tests.client.connection import Pool
from load_tests.client.requests import Target, shuffled_forever
from load_tests.errors import MeasurementFailed
from load_tests.generator.loops import BACK_OFF_S, Outcome, Sender
from load_tests.server.usage import usage

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Side:
    """A server, and the requests that it gets."""

    target: Target
    pid: int  # of its main process
    requests: Sequence[bytes]  # of both sides alike: the same images in the same order


@dataclass(frozen=True)
class Window:
    """What happened on one side."""

    outcomes: list[Outcome]
    cpu_ms: float  # per answered image, of all its processes


async def side_by_side(
    sides: tuple[Side, Side], clients: int, duration_s: float, seed: int
) -> tuple[Window, Window]:
    """Return what both servers made of the same images.

    Each client sends an image to one server and then to the other, which one first is random.
    Raises MeasurementFailed if a server answers nothing.
    """
    pools = [Pool(side.target.host, side.target.port, clients) for side in sides]
    outcomes: tuple[list[Outcome], list[Outcome]] = ([], [])
    senders = [
        Sender(pool, shuffled_forever(side.requests, seed), _TIMEOUT_S, noted.append)
        for pool, side, noted in zip(pools, sides, outcomes, strict=True)
    ]
    before = [usage(side.pid).cpu_s for side in sides]
    try:
        await _load(senders, clients, duration_s, random.Random(seed))
    finally:
        for pool in pools:
            pool.close()
    spent = [usage(side.pid).cpu_s - cpu_s for side, cpu_s in zip(sides, before, strict=True)]
    return _window(outcomes[0], spent[0]), _window(outcomes[1], spent[1])


async def _load(
    senders: Sequence[Sender], clients: int, duration_s: float, rng: random.Random
) -> None:
    end = time.monotonic() + duration_s

    async def client() -> None:
        while time.monotonic() < end:
            for sender in rng.sample(senders, len(senders)):
                outcome = await sender.send(time.monotonic())
                if outcome.error is not None:
                    await asyncio.sleep(BACK_OFF_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())


def _window(outcomes: list[Outcome], cpu_s: float) -> Window:
    answered = sum(outcome.answered for outcome in outcomes)
    if not answered:
        raise MeasurementFailed("a server answered nothing")
    return Window(outcomes, 1e3 * cpu_s / answered)
