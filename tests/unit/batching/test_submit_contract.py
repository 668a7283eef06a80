"""What the pipeline may rely on, whether the engine is in its process or in another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.fakes import FakeEngine, identity_in, picture
from tests.unit.batching.pairing import paired
from tests.unit.batching.running import PATIENCE_S, outcome, stage
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.policy import haste
from tidegate.service.batching.submit import Submit
from tidegate.service.batching.tickets import Answer, Ticket
from tidegate.service.errors import (
    DeadlineMissed,
    EngineFailed,
    Overloaded,
    UndecodableImage,
)
from tidegate.service.types import Pixels, Priority

WAYS = ["here", "elsewhere"]


@dataclass
class Submitting:
    """One implementation, with the engine behind it."""

    submit: Submit
    lane: Lane
    engine: FakeEngine
    now: Callable[[], float]

    def admit(self, within_s: float = 60.0, priority: Priority = Priority.INTERACTIVE) -> Ticket:
        now = self.now()
        return self.submit.admit(self.lane, now + within_s, priority, DecodeCost(), "", now)

    def send(self, identity: int) -> tuple[Ticket, Awaitable[Answer]]:
        ticket = self.admit()
        return ticket, self.submit.submit(ticket, picture(identity))


@asynccontextmanager
async def submitting(way: str, engine: FakeEngine) -> AsyncIterator[Submitting]:
    if way == "here":
        async with stage(engine) as on:
            yield Submitting(on.scheduler, on.lane, engine, on.clock)
    else:
        async with paired(engine) as pair:
            yield Submitting(pair.remote, pair.lane, engine, pair.engine.clock)


def check(way: str, engine: FakeEngine, scene: Callable[[Submitting], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), submitting(way, engine) as on:
            await scene(on)

    asyncio.run(main())


@pytest.mark.parametrize("way", WAYS)
def test_each_answer_belongs_to_its_image(way: str) -> None:
    async def scene(on: Submitting) -> None:
        sent = [on.send(identity) for identity in range(40)]
        answers = await asyncio.gather(*(answer for _, answer in sent))

        assert [identity_in(answer.outputs) for answer in answers] == list(range(40))
        for ticket, _ in sent:
            assert ticket.run is not None
            on.submit.leave(ticket)
        assert on.lane.tickets == 0

    check(way, FakeEngine(), scene)


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_stays_after_its_ticket_was_released(way: str) -> None:
    async def scene(on: Submitting) -> None:
        ticket, answer = on.send(5)
        first = await answer
        on.submit.leave(ticket)
        for identity in range(100):
            ticket, answer = on.send(identity + 1000)
            await answer
            on.submit.leave(ticket)

        assert identity_in(first.outputs) == 5

    check(way, FakeEngine(), scene)


@pytest.mark.parametrize("way", WAYS)
def test_an_image_is_decoded_and_run(way: str) -> None:
    async def scene(on: Submitting) -> None:
        ticket = on.admit()
        answer = await on.submit.run(ticket, lambda: picture(7))

        assert identity_in(answer.outputs) == 7
        assert answer.decode_s > 0
        assert ticket.decode_at is not None
        on.submit.leave(ticket)

    check(way, FakeEngine(), scene)


@pytest.mark.parametrize("way", WAYS)
def test_the_time_limit_counts_from_the_last_byte_however_late_it_is_admitted(way: str) -> None:
    async def scene(on: Submitting) -> None:
        now = on.now()
        late = on.submit.admit(
            on.lane, now + 0.3, Priority.INTERACTIVE, DecodeCost(), "", now - 0.6
        )

        assert late.haste == haste(0.9) != haste(0.3)
        on.submit.leave(late)

    check(way, FakeEngine(), scene)


@pytest.mark.parametrize("way", WAYS)
def test_a_decoder_s_error_is_the_answer(way: str) -> None:
    async def scene(on: Submitting) -> None:
        def broken() -> Pixels:
            raise UndecodableImage("not an image")

        ticket = on.admit()

        assert isinstance(await outcome(on.submit.run(ticket, broken)), UndecodableImage)
        on.submit.leave(ticket)
        assert on.engine.batches == []

    check(way, FakeEngine(), scene)


@pytest.mark.parametrize("way", WAYS)
def test_an_image_that_breaks_the_engine_fails_alone(way: str) -> None:
    async def scene(on: Submitting) -> None:
        sent = [on.send(identity) for identity in range(4)]
        outcomes = [await outcome(answer) for _, answer in sent]

        assert isinstance(outcomes[2], EngineFailed)
        assert [isinstance(one, Answer) for one in outcomes] == [True, True, False, True]

    check(way, FakeEngine(breaking={2}), scene)


@pytest.mark.parametrize("way", WAYS)
def test_an_image_without_memory_on_the_device_may_be_sent_again(way: str) -> None:
    async def scene(on: Submitting) -> None:
        _, answer = on.send(1)

        failed = await outcome(answer)

        assert isinstance(failed, Overloaded)
        assert failed.shed_reason == "device-memory"

    check(way, FakeEngine(largest_batch=0), scene)


@pytest.mark.parametrize("way", WAYS)
def test_what_waits_when_its_client_leaves_never_runs(way: str) -> None:
    async def scene(on: Submitting) -> None:
        first, running = on.send(1)
        await asyncio.to_thread(on.engine.wait_for, 1)
        left, _ = on.send(2)
        last, waiting = on.send(3)
        on.submit.leave(left)
        for _ in range(20):  # the other side reads that it was left
            await asyncio.sleep(0)
        on.engine.release(10)
        await asyncio.gather(running, waiting)

        assert on.engine.seen == [1, 3]
        on.submit.leave(first)
        on.submit.leave(last)
        assert on.lane.tickets == 0

    check(way, FakeEngine(held=True), scene)


@pytest.mark.parametrize("way", WAYS)
def test_the_earliest_deadline_of_the_highest_class_runs_first(way: str) -> None:
    async def scene(on: Submitting) -> None:
        _, first = on.send(0)
        await asyncio.to_thread(on.engine.wait_for, 1)
        answers = [first]
        for identity, within_s, priority in (
            (1, 50, Priority.BULK),
            (2, 40, Priority.INTERACTIVE),
            (3, 30, Priority.INTERACTIVE),
        ):
            ticket = on.admit(within_s, priority)
            answers.append(on.submit.submit(ticket, picture(identity)))
        for _ in range(20):
            await asyncio.sleep(0)
        on.engine.release(10)
        await asyncio.gather(*answers)

        assert on.engine.seen == [0, 3, 2, 1]

    check(way, FakeEngine(held=True, max_batch_size=1), scene)


@pytest.mark.parametrize("way", WAYS)
def test_a_deadline_that_cannot_be_met_is_refused(way: str) -> None:
    async def scene(on: Submitting) -> None:
        with pytest.raises(DeadlineMissed, match="takes 10"):
            on.admit(0.001)

    check(way, FakeEngine(), scene)
