from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.fakes import FakeEngine, picture
from tidegate.service.batching.slots import Batch, BatchResult, Slot
from tidegate.service.batching.watchdog import Watchdog

PATIENCE_S = 150.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - a timer changes it
            await asyncio.sleep(0)


class SteppingClock:
    """A clock that moves by a step with every read, and once by an hour."""

    def __init__(self, step_s: float) -> None:
        self.reads = 0
        self.hour_at = -1
        self._now, self._step_s = 0.0, step_s

    def __call__(self) -> float:
        self.reads += 1
        self._now += 3600.0 if self.reads == self.hour_at else self._step_s
        return self._now


def held_slot() -> tuple[Slot, FakeEngine]:
    engine = FakeEngine(held=True)

    def done(_: BatchResult) -> None:
        return None

    def unexpected(reason: str) -> None:
        raise AssertionError(reason)

    slot = Slot(0, on_death=unexpected)
    slot.run(Batch([picture(1)], done, engine, 0))
    engine.wait_for(1)
    return slot, engine


def test_an_engine_that_does_not_finish_is_reported_once() -> None:
    async def main() -> None:
        slot, engine = held_slot()
        reports: list[str] = []
        Watchdog([slot], 0.08, reports.append, SteppingClock(0.01))

        await until(lambda: bool(reports))

        assert reports == ["slot 0 has not finished a batch in 0.08 s"]
        engine.release()
        slot.stop()

    asyncio.run(main())


def test_pauses_of_the_process_do_not_count() -> None:
    async def main() -> None:
        slot, engine = held_slot()
        reports: list[str] = []
        clock = SteppingClock(0.0001)
        clock.hour_at = 4  # as after SIGCONT: the batch has been on the engine for an hour
        watchdog = Watchdog([slot], 0.08, reports.append, clock)

        await until(lambda: clock.reads > 8)

        assert not reports
        watchdog.stop()
        engine.release()
        slot.stop()

    asyncio.run(main())
