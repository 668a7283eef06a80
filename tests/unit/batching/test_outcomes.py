"""A ticket's outcome if its client leaves, its image breaks or the scheduler closes."""

from __future__ import annotations

import asyncio
import threading

from tests.fakes import FakeEngine, identity_in
from tests.unit.batching.running import Stage, on_stage, outcome, stage
from tidegate.service.batching.tickets import Answer, Ticket
from tidegate.service.errors import DeadlineMissed, EngineFailed


def test_the_image_of_a_client_that_left_never_reaches_the_engine() -> None:
    async def play(on: Stage) -> None:
        on.send(0)
        gone = [on.send(identity)[0] for identity in (1, 2)]
        _, stays = on.send(3)

        for ticket in gone:
            on.scheduler.leave(ticket)
        on.engine.release(100)
        await stays

        assert on.engine.seen == [0, 3]

    on_stage(play, FakeEngine(held=True))


class TestLeaving:
    """`leave` is safe in every state of a ticket, and can be called repeatedly."""

    def leave(self, on: Stage, ticket: Ticket) -> None:
        on.scheduler.leave(ticket)
        on.scheduler.leave(ticket)

        assert ticket.answer.done()
        assert ticket.image is None

    def test_before_the_image_is_decoded(self) -> None:
        async def play(on: Stage) -> None:
            ticket = on.admit()

            self.leave(on, ticket)

            assert on.scheduler.waiting == 0

        on_stage(play)

    def test_while_waiting(self) -> None:
        async def play(on: Stage) -> None:
            on.send(0)
            ticket, _ = on.send(1)

            self.leave(on, ticket)

            assert on.scheduler.waiting == 0

        on_stage(play, FakeEngine(held=True))

    def test_while_running(self) -> None:
        async def play(on: Stage) -> None:
            ticket, _ = on.send(0)
            _, neighbour = on.send(1)
            await on.started(1)

            self.leave(on, ticket)
            on.engine.release(100)

            assert identity_in((await neighbour).outputs) == 1

        on_stage(play, FakeEngine(held=True))

    def test_after_the_answer(self) -> None:
        async def play(on: Stage) -> None:
            ticket, answer = on.send(0)
            result = await answer

            self.leave(on, ticket)

            assert answer.result() is result

        on_stage(play)

    def test_after_a_drop(self) -> None:
        async def play(on: Stage) -> None:
            on.send(0)
            ticket, answer = on.send(1, within_s=1)
            on.clock.advance(5)
            on.engine.release(100)
            assert isinstance(await outcome(answer), DeadlineMissed)

            self.leave(on, ticket)

        on_stage(play, FakeEngine(held=True))

    def test_after_a_failure(self) -> None:
        async def play(on: Stage) -> None:
            ticket, answer = on.send(0)
            assert isinstance(await outcome(answer), EngineFailed)

            self.leave(on, ticket)

        on_stage(play, FakeEngine(breaking={0}))


def test_only_the_broken_image_of_a_batch_fails() -> None:
    async def play(on: Stage) -> None:
        answers = [on.send(identity)[1] for identity in range(9)]

        on.engine.release(1000)
        results = [await outcome(answer) for answer in answers]

        assert isinstance(results.pop(5), EngineFailed)
        survivors = [identity_in(r.outputs) for r in results if isinstance(r, Answer)]
        assert survivors == [0, 1, 2, 3, 4, 6, 7, 8]

    on_stage(play, FakeEngine(held=True, breaking={5}))


def test_only_the_image_with_nan_outputs_fails() -> None:
    async def play(on: Stage) -> None:
        answers = [on.send(identity)[1] for identity in range(9)]

        on.engine.release(1000)
        results = [await outcome(answer) for answer in answers]

        assert isinstance(results.pop(5), EngineFailed)
        assert all(isinstance(r, Answer) for r in results)
        assert on.engine.batches == [[0], list(range(1, 9))]  # no batch was run twice

    on_stage(play, FakeEngine(held=True, blind={5}))


def test_after_failures_of_every_image_the_engine_still_runs() -> None:
    engine = FakeEngine(breaking=range(50))

    async def play(on: Stage) -> None:
        answers = [on.send(identity)[1] for identity in range(50)]

        assert {type(await outcome(answer)) for answer in answers} == {EngineFailed}
        assert identity_in((await on.send(99)[1]).outputs) == 99

    on_stage(play, engine)


def test_a_failed_batch_does_not_change_the_latency_model() -> None:
    async def play(on: Stage) -> None:
        before = on.lane.latency.predict(1), on.lane.latency.unloaded_s
        for identity in range(20):
            await outcome(on.send(identity)[1])

        assert (on.lane.latency.predict(1), on.lane.latency.unloaded_s) == before

    on_stage(play, FakeEngine(breaking=range(20)))


def test_a_wedged_batch_is_reported_with_its_slot() -> None:
    async def play(on: Stage) -> None:
        on.send(0)

        assert "slot 0 has not finished a batch in 0.05 s" in await on.wedged.get()

    on_stage(play, FakeEngine(held=True), engine_timeout_s=0.05)


def test_a_batch_that_ends_is_not_reported() -> None:
    async def play(on: Stage) -> None:
        await on.send(0)[1]

        pending = [timer for timer in _timers() if not timer.cancelled()]

        assert on.wedged.empty()
        assert [t for t in pending if "_wedged" in repr(t)] == []

    on_stage(play, engine_timeout_s=25)


def _timers() -> list[asyncio.TimerHandle]:
    return list(getattr(asyncio.get_running_loop(), "_scheduled"))  # noqa: B009 - not typed


def test_close_ends_every_thread() -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        async with stage(FakeEngine(slots=4)) as on:
            await on.send(0)[1]
            assert len(slot_threads() - before) == 4

    asyncio.run(main())

    assert slot_threads() <= before


def test_close_finishes_the_running_batches() -> None:
    async def main() -> None:
        async with stage(FakeEngine(held=True)) as on:
            _, answer = on.send(0)
            await on.started(1)
        assert identity_in((await answer).outputs) == 0

    asyncio.run(main())


def test_close_returns_false_if_a_batch_does_not_end() -> None:
    async def play(on: Stage) -> None:
        on.send(0)
        await on.started(1)

        assert on.scheduler.close(timeout_s=0.0) is False

    on_stage(play, FakeEngine(held=True))


def slot_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("slot-")}
