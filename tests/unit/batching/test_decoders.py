from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from tidegate.service.batching.decoders import Decoders
from tidegate.service.batching.policy import Waiting
from tidegate.service.types import Priority

PATIENCE_S = 150.0
arrivals = itertools.count()


def request(deadline: float = 1.0, priority: Priority = Priority.INTERACTIVE) -> Waiting:
    return Waiting(priority, deadline, next(arrivals))


def play(scene: Callable[[Decoders], Coroutine[None, None, None]], workers: int = 1) -> None:
    deaths: list[str] = []

    async def main() -> None:
        decoders = Decoders(workers, deaths.append)
        async with asyncio.timeout(PATIENCE_S):
            await scene(decoders)
        decoders.close()

    asyncio.run(main())
    assert not deaths


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a thread changes it, through the loop
        await asyncio.sleep(0)


async def run(decoders: Decoders, request: Waiting, work: Callable[[], Any]) -> tuple[Any, float]:
    """Wait for a job as a request does, and withdraw it when cancelled."""
    finished: asyncio.Future[tuple[Any, float]] = asyncio.get_running_loop().create_future()

    def done(result: Any, seconds: float) -> None:
        if not finished.done():
            finished.set_result((result, seconds))

    job = decoders.start(request, work, done)
    try:
        return await finished
    except asyncio.CancelledError:
        decoders.withdraw(job)
        raise


def test_a_result_comes_with_its_duration() -> None:
    async def scene(decoders: Decoders) -> None:
        result, seconds = await run(decoders, request(), lambda: 42)

        assert result == 42
        assert seconds >= 0

    play(scene)


def test_an_error_is_passed_on_and_frees_the_thread() -> None:
    async def scene(decoders: Decoders) -> None:
        result, _ = await run(decoders, request(), lambda: 1 // 0)

        assert isinstance(result, ZeroDivisionError)
        assert decoders.load == 0
        assert (await run(decoders, request(), lambda: 1))[0] == 1

    play(scene)


def test_jobs_run_by_class_then_deadline() -> None:
    done: list[str] = []

    async def scene(decoders: Decoders) -> None:
        gate = threading.Event()
        first = asyncio.create_task(run(decoders, request(), gate.wait))
        await until(lambda: decoders.load == 1)
        others = [
            asyncio.create_task(run(decoders, waiting, partial(done.append, name)))
            for name, waiting in {
                "bulk": request(0.5, Priority.BULK),
                "late": request(9.0),
                "soon": request(2.0),
            }.items()
        ]
        await until(lambda: decoders.load == 4)
        gate.set()
        await asyncio.gather(first, *others)

    play(scene)

    assert done == ["soon", "late", "bulk"]


def test_a_job_withdrawn_before_it_starts_is_removed() -> None:
    done: list[int] = []

    async def scene(decoders: Decoders) -> None:
        gate = threading.Event()
        first = asyncio.create_task(run(decoders, request(), gate.wait))
        await until(lambda: decoders.load == 1)
        waiting = [
            asyncio.create_task(run(decoders, request(), partial(done.append, i)))
            for i in range(50)
        ]
        await until(lambda: decoders.load == 51)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

        assert decoders.load == 1
        gate.set()
        await first

    play(scene)

    assert done == []


def test_an_abandoned_job_counts_until_its_thread_is_done() -> None:
    async def scene(decoders: Decoders) -> None:
        gate = threading.Event()
        abandoned = asyncio.create_task(run(decoders, request(), gate.wait))
        await until(lambda: decoders.load == 1)
        abandoned.cancel()
        await asyncio.gather(abandoned, return_exceptions=True)

        assert decoders.load == 1
        gate.set()
        await until(lambda: decoders.load == 0)

    play(scene)


@pytest.mark.parametrize("seed", range(10))
def test_no_thread_is_lost_in_any_order_of_starts_and_withdrawals(seed: int) -> None:
    async def scene(decoders: Decoders) -> None:
        chance = random.Random(seed)  # noqa: S311 - a repeatable order, no secret
        tasks = []
        for _ in range(300):
            tasks.append(asyncio.create_task(run(decoders, request(chance.random()), lambda: None)))
            if chance.random() < 0.5:
                chance.choice(tasks).cancel()
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)

        await until(lambda: decoders.load == 0)
        assert (await run(decoders, request(), lambda: 7))[0] == 7

    play(scene, workers=2)


def test_threads_take_the_next_image_while_the_loop_is_busy() -> None:
    decoded, results = threading.Semaphore(0), []

    async def scene(decoders: Decoders) -> None:
        for _ in range(20):
            decoders.start(request(), decoded.release, lambda result, s: results.append(result))
        for number in range(20):  # the loop does nothing else meanwhile
            assert decoded.acquire(timeout=PATIENCE_S), f"image {number} waits for the loop"

        assert results == []
        await until(lambda: len(results) == 20)
        assert decoders.load == 0

    play(scene, workers=2)


def test_queued_jobs_do_not_start_after_the_end() -> None:
    done: list[int] = []

    async def scene(decoders: Decoders) -> None:
        gate, started = threading.Event(), threading.Event()

        def until_opened() -> None:
            started.set()
            gate.wait(PATIENCE_S)

        first = asyncio.create_task(run(decoders, request(), until_opened))
        await until(started.is_set)
        decoders.start(request(), partial(done.append, 1), lambda result, seconds: None)
        decoders.close()
        gate.set()
        await first

    play(scene)

    assert done == []
