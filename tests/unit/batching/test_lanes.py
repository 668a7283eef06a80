"""Several versions share the slots: a batch is of one, and none is starved."""

from __future__ import annotations

import asyncio
import math

import pytest

from tests.fakes import FakeEngine, identity_in, picture
from tests.unit.batching.running import SEEDS, Stage, on_stage, outcome
from tidegate.service.batching.idle_work import IdleWork
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.policy import Limits
from tidegate.service.batching.slots import BatchResult
from tidegate.service.types import Outputs


def lane(
    engine: FakeEngine, model: str = "other", weight: float = 1.0, max_batch_size: int = 8
) -> Lane:
    limits = Limits(max_batch_size, 10_000, default_deadline_s=math.inf)
    return Lane(engine, LatencyModel(SEEDS), limits, model=model, weight=weight)


def test_a_batch_has_images_of_one_version_and_runs_on_its_engine() -> None:
    first, second = FakeEngine(held=True), FakeEngine()

    async def play(on: Stage) -> None:
        other = lane(second)
        on.scheduler.open_lane(other)
        answers = [on.send(0)[1]]
        await on.started(1)
        for identity in range(1, 9):
            ticket = on.admit(lane=other if identity % 2 else None)
            answers.append(on.submit(ticket, identity))
        first.release(2)

        done = await asyncio.gather(*answers)

        assert [identity_in(answer.outputs) for answer in done] == list(range(9))
        assert first.batches == [[0], [2, 4, 6, 8]]
        assert second.batches == [[1, 3, 5, 7]]

    on_stage(play, first)


def test_a_version_is_closed_only_once_nothing_waits_or_runs_there() -> None:
    second = FakeEngine(held=True)

    async def play(on: Stage) -> None:
        other = lane(second)
        on.scheduler.open_lane(other)
        with other.receiving():
            assert not on.scheduler.close_lane(other)
        ticket = on.admit(lane=other)
        assert not on.scheduler.close_lane(other)
        answer = on.submit(ticket, 1)
        await asyncio.to_thread(second.wait_for, 1)
        on.scheduler.leave(ticket)  # its client is gone, but the engine still computes

        assert not on.scheduler.close_lane(other)
        second.release(1)
        await outcome(answer)
        while not on.scheduler.close_lane(other):  # noqa: ASYNC110 - the slot's thread finishes the batch
            await asyncio.sleep(0)

    on_stage(play)


def test_the_waiting_images_of_other_versions_are_counted_at_admission() -> None:
    async def play(on: Stage) -> None:
        other = lane(FakeEngine())
        on.scheduler.open_lane(other)
        alone = on.admit(lane=other).predicted_s
        tickets = [on.admit() for _ in range(80)]

        behind = on.admit(within_s=120.0, lane=other).predicted_s

        assert behind > alone + 9 * SEEDS[8]
        for ticket in tickets:
            on.scheduler.leave(ticket)

    on_stage(play)


@pytest.mark.lengthy
@pytest.mark.parametrize(("weight", "share"), [(1.0, 0.5), (3.0, 0.75)])
def test_under_overload_each_model_gets_its_part_of_the_slots(
    weight: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = FakeEngine(held=True, max_batch_size=8), FakeEngine(max_batch_size=8)
    second.batches = first.batches  # in the order in which they ran

    async def play(on: Stage) -> None:
        other = lane(second, weight=weight)
        on.scheduler.open_lane(other)
        for each in (on.lane, other):  # what the fake engine takes is not what is predicted
            monkeypatch.setattr(each.latency, "observe", lambda images, seconds: None)
        on.send(0)
        await on.started(1)
        answers = []
        for identity in range(1, 801):  # the first model's images have the earlier deadlines
            answers.append(on.submit(on.admit(within_s=50.0), identity))
            answers.append(on.submit(on.admit(within_s=60.0, lane=other), 10_000 + identity))

        first.release(1000)
        await asyncio.gather(*answers)

    on_stage(play, first)

    ran = [batch[0] > 10_000 for batch in first.batches[20:100]]  # while both have images
    assert sum(ran) / len(ran) == pytest.approx(share, abs=0.08)


def test_work_for_idle_slots_waits_until_nothing_runs() -> None:
    engine = FakeEngine(slots=2, held=True)

    async def play(on: Stage) -> None:
        done: asyncio.Future[BatchResult] = asyncio.get_running_loop().create_future()
        _, answer = on.send(1)
        await on.started(1)
        spare = FakeEngine(slots=2)
        on.scheduler.when_idle(IdleWork((picture(7),), spare, on.lane, done.set_result))
        _, second = on.send(2)  # takes the other slot
        await on.started(2)

        assert spare.batches == []
        engine.release(2)
        await asyncio.gather(answer, second)
        row = (await done).rows[0]

        assert isinstance(row, Outputs)
        assert identity_in(row) == 7

    on_stage(play, engine, own_decoders=False)


def test_overdue_work_for_idle_slots_runs_before_requests() -> None:
    engine = FakeEngine(held=True, max_batch_size=1)

    async def play(on: Stage) -> None:
        done: asyncio.Future[BatchResult] = asyncio.get_running_loop().create_future()
        answers = [on.send(1)[1]]
        await on.started(1)
        spare = FakeEngine()
        work = IdleWork((picture(7),), spare, on.lane, done.set_result, overdue_at=on.clock() + 1)
        on.scheduler.when_idle(work)
        answers += [on.send(2)[1], on.send(3)[1]]
        engine.release(1)
        await on.started(2)
        assert spare.batches == []
        on.clock.advance(2.0)
        engine.release(1)

        await done

        assert not answers[2].done()
        engine.release(1)
        await asyncio.gather(*answers)

    on_stage(play, engine, max_batch_size=1)


def test_overdue_work_does_not_wait_behind_work_that_may_wait() -> None:
    engine = FakeEngine(held=True, max_batch_size=1)

    async def play(on: Stage) -> None:
        done: asyncio.Future[BatchResult] = asyncio.get_running_loop().create_future()
        answers = [on.send(1)[1]]
        await on.started(1)
        spare = FakeEngine()
        on.scheduler.when_idle(IdleWork((picture(6),), spare, on.lane, print))
        work = IdleWork((picture(7),), spare, on.lane, done.set_result, overdue_at=on.clock() + 1)
        on.scheduler.when_idle(work)
        answers.append(on.send(2)[1])
        on.clock.advance(2.0)
        engine.release(1)

        await done

        assert not answers[1].done()
        engine.release(1)
        await asyncio.gather(*answers)

    on_stage(play, engine, max_batch_size=1)


def test_withdrawn_work_for_idle_slots_does_not_run() -> None:
    engine = FakeEngine(held=True)

    async def play(on: Stage) -> None:
        _, answer = on.send(1)
        await on.started(1)
        spare = FakeEngine()
        work = IdleWork((picture(7),), spare, on.lane, print)
        on.scheduler.when_idle(work)

        assert on.scheduler.withdraw(work)
        engine.release(1)
        await answer

        assert spare.batches == []

    on_stage(play, engine)
