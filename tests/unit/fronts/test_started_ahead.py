"""A process is started ahead, is used if it runs, and is replaced if it hangs."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from typing import cast

import pytest

from tidegate.service.fronts import child, started_ahead
from tidegate.service.fronts.child import Child
from tidegate.service.fronts.liveness import START_S
from tidegate.service.fronts.started_ahead import StartedAhead


class FakeProcess:
    """Says what it is told to say, and nothing else."""

    started: list[FakeProcess]

    def __init__(self, command: Sequence[str], *, pass_fds: Sequence[int], stdin: int) -> None:
        self.pid = 1 << 30  # no process has it
        self._messages = socket.socket(fileno=os.dup(pass_fds[1]))
        self.kills = 0
        self.started.append(self)

    def say_that_it_waits(self) -> None:
        self._messages.send(b"waiting")

    def kill(self) -> None:
        self.kills += 1
        self._messages.close()

    def poll(self) -> int | None:
        return -9 if self.kills else None


class FakeClock:
    """Takes the place of `time`."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeProcess]]:
    FakeProcess.started = []
    monkeypatch.setattr(subprocess, "Popen", FakeProcess)
    yield FakeProcess.started
    for process in FakeProcess.started:
        process.kill()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(child, "time", fake)
    monkeypatch.setattr(started_ahead, "time", fake)
    return fake


def process_of(taken: Child) -> FakeProcess:
    return cast(FakeProcess, taken.process)


def test_one_that_hangs_is_ended_and_another_one_is_started(
    started: list[FakeProcess], clock: FakeClock
) -> None:
    ahead = StartedAhead()
    ahead.start()
    clock.now += START_S - 1
    ahead.renew()
    assert len(started) == 1

    clock.now += 2
    ahead.renew()
    ahead.renew()
    assert [one.kills for one in started] == [1, 0]
    ahead.end()


def test_one_that_has_imported_waits_for_as_long_as_it_takes(
    started: list[FakeProcess], clock: FakeClock
) -> None:
    ahead = StartedAhead()
    ahead.start()
    started[0].say_that_it_waits()
    for _ in range(3):
        clock.now += 100 * START_S
        ahead.renew()

    assert [one.kills for one in started] == [0]
    ahead.end()


def test_one_that_runs_is_taken(started: list[FakeProcess]) -> None:
    ahead = StartedAhead()
    ahead.start()
    ahead.start()
    assert len(started) == 1
    taken = ahead.take()

    assert process_of(taken) is started[0]
    assert ahead.end() == []
    taken.end()


def test_one_that_has_ended_is_not_taken(started: list[FakeProcess]) -> None:
    ahead = StartedAhead()
    ahead.start()
    started[0].kill()
    taken = ahead.take()

    assert process_of(taken) is started[1]
    taken.end()


def test_without_one_a_new_one_is_taken(
    started: list[FakeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    ahead = StartedAhead()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        ahead.start()  # without effect
        with pytest.raises(BlockingIOError):
            ahead.take()
    taken = ahead.take()

    assert len(started) == 1
    taken.end()
