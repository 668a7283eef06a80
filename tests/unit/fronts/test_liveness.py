"""A front end that hangs is ended, whether it is up or still starts; one that waits is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np

from tidegate.service.fronts.liveness import DEAD_S, SILENT_S, START_S, Liveness
from tidegate.service.fronts.worker import Worker


@dataclass
class FakeSilence:
    """Of a process that has waited for a core for some seconds."""

    waited_s: float = 0.0

    def seconds(self, alive_at: float, now: float) -> float:
        return now - alive_at - self.waited_s


@dataclass
class FakeWorker:
    """A front end without a process."""

    index: int = 0
    is_up: bool = True
    started_at: float = 0.0
    silence: FakeSilence = field(default_factory=FakeSilence)
    is_ended: bool = False
    kills: int = 0

    @property
    def is_starting(self) -> bool:
        return not self.is_up

    def kill(self) -> None:
        self.is_ended = True
        self.kills += 1


class Fleet:
    """Some fakes, and the clock by which they are judged every 50 ms."""

    def __init__(self, *workers: FakeWorker) -> None:
        self.workers = workers
        self.alive_at = np.zeros(len(workers) + 1)
        self._liveness = Liveness(self.alive_at)
        self._now = 0.0

    def run_until(self, at: float) -> None:
        while self._now < at:
            self.jump_to(self._now + 0.05)

    def jump_to(self, at: float) -> None:
        """Let time pass in which this process does not run."""
        self._now = at
        self._liveness.end_hanging(cast(list[Worker], self.workers), at)

    def taking(self) -> list[int]:
        taking = self._liveness.taking(cast(list[Worker], self.workers), self._now)
        return [worker.index for worker in taking]


def test_one_that_does_not_start_is_ended_once() -> None:
    fleet = Fleet(FakeWorker(is_up=False))
    fleet.run_until(START_S - 1)
    assert fleet.workers[0].kills == 0

    fleet.run_until(START_S + 10)
    assert fleet.workers[0].kills == 1


def test_one_that_starts_and_gets_no_core_is_not_ended() -> None:
    fleet = Fleet(FakeWorker(is_up=False, silence=FakeSilence(waited_s=START_S)))
    fleet.run_until(1.9 * START_S)
    assert fleet.workers[0].kills == 0

    fleet.run_until(2 * START_S + 1)
    assert fleet.workers[0].kills == 1


def test_one_that_is_up_and_silent_gets_no_connections_and_is_ended_once() -> None:
    fleet = Fleet(FakeWorker(0), FakeWorker(1))
    fleet.alive_at[1] = np.inf
    assert fleet.taking() == [0, 1]
    fleet.run_until(SILENT_S + 1)
    assert fleet.taking() == [1]
    fleet.run_until(DEAD_S - 1)
    assert fleet.workers[0].kills == 0

    fleet.run_until(DEAD_S + 10)
    assert [one.kills for one in fleet.workers] == [1, 0]


def test_if_all_are_silent_all_take_connections() -> None:
    fleet = Fleet(FakeWorker(0), FakeWorker(1))
    fleet.run_until(SILENT_S + 1)

    assert fleet.taking() == [0, 1]


def test_time_in_which_this_process_was_stopped_does_not_count() -> None:
    fleet = Fleet(FakeWorker(0), FakeWorker(1, is_up=False))
    fleet.run_until(1)
    fleet.jump_to(1000)
    assert [one.kills for one in fleet.workers] == [0, 0]

    fleet.run_until(1000 + DEAD_S + 1)
    assert [one.kills for one in fleet.workers] == [1, 0]
    fleet.run_until(1000 + START_S + 1)
    assert [one.kills for one in fleet.workers] == [1, 1]
