"""Scenarios with images that are expensive to decode."""

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
_MOST_OPEN = 400  # limit of concurrent hostile requests
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
    """Send hostile images at a constant rate, each on a new connection; count the answers."""
    begun, number = time.monotonic(), 0
    requests = [wire.request(CLASSIFY, image, headers=headers) for image in images]
    tasks: set[asyncio.Task[None]] = set()
    statuses: Counter[str] = Counter()

    async def one(request: bytes) -> None:
        answer = await hostile_client.send_request(server.target, request, 30, address)
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


def with_hostile_image(
    made: Callable[[], bytes], *, accepted: bool, address: str = hostile_client.ADDRESS
) -> Scenario:
    """Return a scenario of normal clients together with an expensive image.

    The image must be accepted or, with `accepted=False`, rejected.
    """

    async def scenario(setting: Setting) -> Outcome:
        image = made()
        async with served(setting, {"TIDEGATE_OOD_ACTION": "flag"}) as server:
            hostile = asyncio.create_task(
                attack(server, [image], HOSTILE_RATE, setting.seconds, address)
            )
            traffic = await good_traffic(server, GOOD_RATE, setting.seconds)
            statuses = await hostile
            if not server.alive():
                return Outcome("the process exited", passed=False)
        seen = f"{traffic}, {len(image):,} B each ({dict(sorted(statuses.items()))})"
        return Outcome(
            seen, traffic.goodput >= GOODPUT and as_expected(statuses, accepted=accepted)
        )

    return scenario


def as_expected(statuses: Counter[str], *, accepted: bool) -> bool:
    """Return whether some were decoded and none rejected, or the reverse if not `accepted`.

    A 503 counts as neither, and a missed deadline (504) counts as decoded.
    """
    decoded = statuses["200"] + statuses["504"]
    rejected = sum(n for status, n in statuses.items() if status.startswith("4"))
    return (decoded > 0 and rejected == 0) if accepted else (rejected > 0 and decoded == 0)


async def long_deadlines(setting: Setting) -> Outcome:
    """Small files that decode slowly, with a deadline of a minute, and large valid photos."""
    request = wire.request(CLASSIFY, worst("jpeg-baseline", _PHOTO_SIDE))
    async with served(setting, {"TIDEGATE_OOD_ACTION": "flag"}) as server:
        await server.good(request=request)  # makes this address count as active
        hostile = asyncio.create_task(
            attack(server, [worst("webp-lossless")], _TINY_RATE, setting.seconds, headers=[_MINUTE])
        )
        traffic = await good_traffic(server, 1, setting.seconds, request)
        statuses = await hostile
    seen = f"{traffic}, hostile {dict(sorted(statuses.items()))}"
    return Outcome(seen, traffic.goodput >= GOODPUT and as_expected(statuses, accepted=True))


async def slow_decodes(setting: Setting) -> Outcome:
    """Slow images with a long deadline; afterwards the idle service answers small images."""
    images = [worst("jpeg-scans"), worst("png-interlaced")]
    requests = [wire.request(CLASSIFY, image, headers=[_MINUTE]) for image in images]
    async with served(setting) as server:
        await asyncio.gather(
            *(
                hostile_client.send_request(server.target, requests[number // _SLOW], 120)
                for number in range(_SLOW * len(requests))
            )
        )
        await until_idle(server.pid, _IDLE_S)
        traffic = await good_traffic(server, 5, 3.0)
    return Outcome(f"afterwards {traffic}", traffic.goodput == 1)


async def failing_images(setting: Setting) -> Outcome:
    """Large images that fail to decode: their memory is released."""
    cut = [worst(name) for name in ("jpeg-progressive", "png-interlaced", "tiff-rgba")]
    requests = [wire.request(CLASSIFY, image[: len(image) * 2 // 3]) for image in cut]
    async with served(setting) as server:
        before = 0.0
        for number in range(_FAILING):
            await hostile_client.send_request(server.target, requests[number % len(requests)], 60)
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
        what = "expensive images" if accepted else "rejected images"
        yield f"with-{name}", (with_hostile_image(partial(worst, name), accepted=accepted), what)
    for name in NEAR:
        what = "images just below the limit for small ones"
        yield f"with-near-{name}", (with_hostile_image(partial(near, name), accepted=True), what)
    shared = [(name, partial(worst, name)) for name in WORST_OF_FORMAT]
    shared += [(f"near-{name}", partial(near, name)) for name in NEAR]
    for name, made in shared:
        scenario = with_hostile_image(made, accepted=True, address=hostile_client.SOUND_ADDRESS)
        yield f"same-address-{name}", (scenario, "images from the same address")


WITH_HOSTILE_IMAGE = dict(_scenarios())
