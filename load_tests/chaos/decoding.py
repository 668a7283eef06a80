"""Scenarios of images that are expensive to decode."""

import asyncio
import time

from load_tests.chaos import hostile_client
from load_tests.chaos.setting import (
    GROWTH_MB,
    Outcome,
    Scenario,
    Server,
    Setting,
    good_traffic,
    served,
)
from load_tests.fuzz import wire
from load_tests.fuzz.http_seeds import CLASSIFY
from load_tests.fuzz.memory import until_idle
from load_tests.fuzz.worst import WORST, worst

HOSTILE_RATE, GOOD_RATE = 10.0, 20.0
GOODPUT = 0.9
_MOST_OPEN = 400  # hostile requests that wait for their answer
_SLOW = 14  # of each kind
_FAILING = 40
_IDLE_S = 90.0


async def attack(server: Server, images: list[bytes], rate: float, seconds: float) -> None:
    """Send hostile images at an even rate, each on a connection of its own."""
    begun, number = time.monotonic(), 0
    requests = [wire.request(CLASSIFY, image) for image in images]
    tasks: set[asyncio.Task[object]] = set()
    while (due := number / rate) < seconds:
        await asyncio.sleep(max(0.0, begun + due - time.monotonic()))
        if len(tasks) < _MOST_OPEN:
            asked = hostile_client.ask(server.target, requests[number % len(requests)], 30)
            task: asyncio.Task[object] = asyncio.create_task(asked)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        number += 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def beside(name: str) -> Scenario:
    """Return the scenario of sound clients beside the worst image `name`."""

    async def scenario(setting: Setting) -> Outcome:
        image = worst(name)
        async with served(setting) as server:
            hostile = asyncio.create_task(attack(server, [image], HOSTILE_RATE, setting.seconds))
            traffic = await good_traffic(server, GOOD_RATE, setting.seconds)
            await hostile
            if not server.alive():
                return Outcome("the process ended", passed=False)
        return Outcome(f"{traffic}, {len(image):,} B each", traffic.goodput >= GOODPUT)

    return scenario


async def slow_decodes(setting: Setting) -> Outcome:
    """Slow images with a long deadline; afterwards the idle service answers small ones."""
    headers = [b"X-Request-Timeout-Ms: 60000"]
    images = [worst("jpeg-arithmetic"), worst("png-interlaced")]
    requests = [wire.request(CLASSIFY, image, headers=headers) for image in images]
    async with served(setting) as server:
        await asyncio.gather(
            *(
                hostile_client.ask(server.target, requests[number // _SLOW], 120)
                for number in range(_SLOW * len(requests))
            )
        )
        await until_idle(server.pid, _IDLE_S)
        traffic = await good_traffic(server, 5, 3.0)
    return Outcome(f"afterwards {traffic}", traffic.goodput == 1)


async def failing_images(setting: Setting) -> Outcome:
    """Large images that fail: their memory comes back."""
    cut = [worst(name) for name in ("jpeg-progressive", "png-interlaced", "tiff")]
    requests = [wire.request(CLASSIFY, image[: len(image) * 2 // 3]) for image in cut]
    async with served(setting) as server:
        before = 0.0
        for number in range(_FAILING):
            await hostile_client.ask(server.target, requests[number % len(requests)], 60)
            await until_idle(server.pid, _IDLE_S)
            if number == len(requests) - 1:
                before = server.memory.resident_mb()
        grown = server.memory.resident_mb() - before
        status = await server.good()
    seen = f"+{grown:.0f} MB after {_FAILING} failed images, then {status}"
    return Outcome(seen, grown < GROWTH_MB and status == 200)


BESIDE = {f"beside-{name}": beside(name) for name in WORST}
