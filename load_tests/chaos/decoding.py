"""Scenarios of images that are expensive to decode."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

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
from load_tests.fuzz.worst import ACCEPTED, NEAR, WORST, WORST_OF_FORMAT, near, worst

HOSTILE_RATE, GOOD_RATE = 10.0, 20.0
GOODPUT = 0.9
_MOST_OPEN = 400  # hostile requests that wait for their answer
_SLOW = 14  # of each kind
_FAILING = 40
_IDLE_S = 90.0
_MINUTE = b"X-Request-Timeout-Ms: 60000"
_PHOTO_SIDE = 3500  # 12 megapixels
_TINY_RATE = 30.0


async def attack(
    server: Server,
    images: Sequence[bytes],
    rate: float,
    seconds: float,
    address: str = hostile_client.ADDRESS,
    headers: Sequence[bytes] = (),
) -> Counter[str]:
    """Send hostile images at an even rate, each on a connection of its own; count the answers."""
    begun, number = time.monotonic(), 0
    requests = [wire.request(CLASSIFY, image, headers=headers) for image in images]
    tasks: set[asyncio.Task[None]] = set()
    statuses: Counter[str] = Counter()

    async def one(request: bytes) -> None:
        answer = await hostile_client.ask(server.target, request, 30, address)
        statuses[str(answer and answer.status)] += 1

    while (due := number / rate) < seconds:
        await asyncio.sleep(max(0.0, begun + due - time.monotonic()))
        if len(tasks) < _MOST_OPEN:
            task = asyncio.create_task(one(requests[number % len(requests)]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        number += 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return statuses


def beside(
    made: Callable[[], bytes], *, accepted: bool, address: str = hostile_client.ADDRESS
) -> Scenario:
    """Return the scenario of sound clients beside an image that is accepted, or is rejected."""

    async def scenario(setting: Setting) -> Outcome:
        image = made()
        async with served(setting, {"TIDEGATE_OOD_ACTION": "flag"}) as server:
            hostile = asyncio.create_task(
                attack(server, [image], HOSTILE_RATE, setting.seconds, address)
            )
            traffic = await good_traffic(server, GOOD_RATE, setting.seconds)
            statuses = await hostile
            if not server.alive():
                return Outcome("the process ended", passed=False)
        seen = f"{traffic}, {len(image):,} B each ({dict(sorted(statuses.items()))})"
        return Outcome(
            seen, traffic.goodput >= GOODPUT and as_expected(statuses, accepted=accepted)
        )

    return scenario


def as_expected(statuses: Counter[str], *, accepted: bool) -> bool:
    """Return whether hostile images were decoded, and never rejected; or never anything else.

    A refusal (503) shows neither, and a missed deadline (504) comes from an accepted image.
    """
    decoded = statuses["200"] + statuses["504"]
    rejected = sum(n for status, n in statuses.items() if status.startswith("4"))
    return (decoded > 0 and rejected == 0) if accepted else (rejected > 0 and decoded == 0)


async def long_deadlines(setting: Setting) -> Outcome:
    """Tiny files that decode slowly, with a deadline of a minute, beside large sound photos."""
    request = wire.request(CLASSIFY, worst("jpeg-baseline", _PHOTO_SIDE))
    async with served(setting, {"TIDEGATE_OOD_ACTION": "flag"}) as server:
        await server.good(request=request)  # from now on this address counts as active
        hostile = asyncio.create_task(
            attack(server, [worst("webp-lossless")], _TINY_RATE, setting.seconds, headers=[_MINUTE])
        )
        traffic = await good_traffic(server, 1, setting.seconds, request)
        statuses = await hostile
    seen = f"{traffic} beside {dict(sorted(statuses.items()))}"
    return Outcome(seen, traffic.goodput >= GOODPUT and as_expected(statuses, accepted=True))


async def slow_decodes(setting: Setting) -> Outcome:
    """Slow images with a long deadline; afterwards the idle service answers small ones."""
    images = [worst("jpeg-scans"), worst("png-interlaced")]
    requests = [wire.request(CLASSIFY, image, headers=[_MINUTE]) for image in images]
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
    cut = [worst(name) for name in ("jpeg-progressive", "png-interlaced", "tiff-rgba")]
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


def _scenarios() -> Iterator[tuple[str, tuple[Scenario, str]]]:
    for name in WORST:
        accepted = name in ACCEPTED
        what = "expensive ones" if accepted else "that are rejected"
        yield f"beside-{name}", (beside(partial(worst, name), accepted=accepted), what)
    for name in NEAR:
        what = "decoded like small ones"
        yield f"beside-near-{name}", (beside(partial(near, name), accepted=True), what)
    shared = [(name, partial(worst, name)) for name in WORST_OF_FORMAT]
    shared += [(f"near-{name}", partial(near, name)) for name in NEAR]
    for name, made in shared:
        scenario = beside(made, accepted=True, address=hostile_client.SOUND_ADDRESS)
        yield f"same-address-{name}", (scenario, "from the same address")


BESIDE = dict(_scenarios())
