"""A front end that does not start, or that takes no memory, is replaced by one that does."""

from __future__ import annotations

import asyncio
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.fronts.in_process import FakeProcess, Fronted, Run, running, until
from tests.unit.stage import folder_of_models
from tidegate.service.fronts.liveness import START_S
from tidegate.service.fronts.worker import Worker


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def run(root: Path) -> Iterator[Run]:
    with running(root) as started:
        yield started


def lose(on: Fronted, index: int) -> None:
    """Kill a front end that is up."""
    worker = on.fleet._workers[index]
    assert worker.is_up
    worker.process.kill()


async def replaced(on: Fronted, index: int, before: Worker) -> Worker:
    await until(lambda: on.fleet._workers[index] is not before)
    return on.fleet._workers[index]


async def hanging(on: Fronted, index: int, *, others: int = 0) -> Worker:
    """Let a front end hang while it starts, after two failures; return it.

    The process that is started ahead is used first. `others` that are started later hang as well.
    """
    FakeProcess.next_hang = 1 + others
    worker = on.fleet._workers[index]
    for _ in range(2):
        await until(lambda: on.fleet.up == 2)
        lose(on, index)
        worker = await replaced(on, index, worker)
    assert worker.is_starting
    assert on.fleet.up == 1
    return worker


async def replaced_late(on: Fronted, index: int, worker: Worker) -> Worker:
    """Let the time for its start pass; return its replacement."""
    worker.started_at -= START_S + 1
    return await replaced(on, index, worker)


def test_one_that_hangs_while_it_starts_is_replaced(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(on: Fronted) -> None:
        worker = await hanging(on, 0, others=1)
        for _ in range(2):
            worker = await replaced_late(on, 0, worker)
        await until(lambda: worker.is_up)

        assert on.fleet.up == 2
        assert on.value("tidegate_front_ends_replaced_total") == 4
        assert not on.service.failed.is_set()

    run(scenario)
    assert caplog.messages.count("front end 0 has not started within 60 s and is ended") == 2


def test_starts_that_hang_count_as_failures(run: Run) -> None:
    async def scenario(on: Fronted) -> None:
        worker = await hanging(on, 0, others=5)
        for _ in range(2):
            worker = await replaced_late(on, 0, worker)
        assert not on.service.failed.is_set()
        worker.started_at -= START_S + 1
        await until(on.service.failed.is_set)

        assert on.service.failure == "5 front ends have ended within 60 s"

    run(scenario)


def test_one_that_replaces_another_during_a_drain_drains(run: Run) -> None:
    async def scenario(on: Fronted) -> None:
        on.fleet.begin_drain()
        worker = await hanging(on, 0)
        other = on.fleet._workers[1]
        lose(on, 1)
        await replaced(on, 1, other)
        await replaced_late(on, 0, worker)
        await until(lambda: on.fleet.up == 2)
        answers = [await on.client.get("/livez") for _ in range(2)]

        assert [one.headers["connection"] for one in answers] == ["close"] * 2

    run(scenario)


def test_a_service_stops_at_once_while_one_hangs_as_it_starts(root: Path) -> None:
    async def scenario(on: Fronted) -> None:
        await hanging(on, 0)
        async with asyncio.timeout(60):
            await on.fleet.stop(timeout_s=120)

    with running(root) as run:
        run(scenario)


def test_one_that_takes_no_memory_is_replaced_and_the_service_goes_on(run: Run) -> None:
    async def scenario(on: Fronted) -> None:
        first = on.fleet._workers[0]
        assert first.peer is not None
        FakeProcess.started[0].lose_memories()
        first.peer.rings.clear()  # as if the next version had larger images
        first._lanes.clear()
        on.fleet._bring_up_to_date(first)
        second = await replaced(on, 0, first)
        await until(lambda: second.is_up)

        assert not on.service.failed.is_set()

    run(scenario)


def test_one_for_which_there_is_no_process_is_started_later(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = iter([errno.EAGAIN, errno.ENOMEM])

    def start(*arguments: object, **options: object) -> FakeProcess:
        if (number := next(refusals, None)) is not None:
            raise OSError(number, "not now")
        return FakeProcess(*arguments, **options)  # type: ignore[arg-type]

    async def scenario(on: Fronted) -> None:
        first = on.fleet._workers[0]
        FakeProcess.started[-1].kill()  # the one ahead: it cannot be taken
        await until(lambda: FakeProcess.started[-1].poll() is not None)
        monkeypatch.setattr(subprocess, "Popen", start)
        lose(on, 0)
        second = await replaced(on, 0, first)
        await until(lambda: second.is_up)

        assert not on.service.failed.is_set()

    run(scenario)
    assert (
        caplog.messages.count("front end 0 cannot be started (not now); another one is started")
        == 2
    )
