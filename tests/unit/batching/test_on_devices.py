"""Batching on separate devices: batches that grow, full or lost devices, several devices."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import partial

import pytest

from tests.fakes import FakeEngine, identity_in, picture
from tests.unit.batching.running import Stage, on_stage, outcome
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.placement import OnSlot
from tidegate.service.batching.tickets import Answer
from tidegate.service.errors import DeadlineMissed, EngineFailed, Overloaded
from tidegate.service.types import Pixels


def identities(results: Sequence[object]) -> list[int]:
    return [identity_in(result.outputs) for result in results if isinstance(result, Answer)]


def test_a_batch_grows_by_the_images_that_are_ready_before_its_turn() -> None:
    async def play(on: Stage) -> None:
        first = on.send(1)[1]
        on.clock.advance(0.5)
        later = [on.send(identity)[1] for identity in (2, 3)]
        on.engine.give_turn()

        answers = [await outcome(answer) for answer in (first, *later)]

        assert identities(answers) == [1, 2, 3]
        assert on.engine.batches == [[1, 2, 3]]
        assert [a.batch_size for a in answers if isinstance(a, Answer)] == [3, 3, 3]
        # queue_s is from ready to dispatched, and each joined its batch when it was ready.
        assert all(a.queue_s == 0 for a in answers if isinstance(a, Answer))
        assert on.value("tidegate_batch_size_sum") == 3
        assert on.scheduler.waiting == 0

    on_stage(play, FakeEngine(waits_its_turn=True))


def test_pixels_from_a_client_join_a_batch_without_waiting_for_a_decoder() -> None:
    async def play(on: Stage) -> None:
        busy = threading.Event()
        decoding = []  # more images than decoder threads
        for _ in range(3):
            ticket = on.admit(cost=DecodeCost("JPEG", 0.01))
            decoding.append(on.run(ticket, partial(_after, busy)))
        ticket = on.admit(cost=DecodeCost(decoded=True))

        answer = on.submit(ticket, 7)
        result = await outcome(answer)
        busy.set()

        assert identities([result]) == [7]
        assert isinstance(result, Answer)
        assert result.decode_s == 0
        assert isinstance(ticket.placement, OnSlot)  # it was predicted without them, too
        for one in decoding:
            await outcome(one)
        assert on.scheduler.waiting == 0
        assert [total.count for total in on.lane.statistics.batches.values()]

    on_stage(play)


def _after(event: threading.Event) -> Pixels:
    event.wait()
    return picture(1)


def test_a_batch_grows_up_to_the_maximum_size() -> None:
    async def play(on: Stage) -> None:
        answers = [on.send(identity)[1] for identity in range(6)]
        on.engine.give_turn()
        on.engine.give_turn()

        assert identities([await outcome(answer) for answer in answers]) == list(range(6))
        assert on.engine.batches == [[0, 1, 2, 3], [4, 5]]

    on_stage(play, FakeEngine(waits_its_turn=True), max_batch_size=4)


def test_a_late_image_is_dropped_and_not_added_to_a_batch() -> None:
    async def play(on: Stage) -> None:
        first = on.send(1)[1]
        late = on.send(2, within_s=0.1)[1]
        on.clock.advance(0.2)
        on.engine.give_turn()

        assert isinstance(await outcome(late), DeadlineMissed)
        assert identities([await outcome(first)]) == [1]
        assert on.shed("early-drop") == 1
        assert on.engine.batches == [[1]]

    on_stage(play, FakeEngine(waits_its_turn=True))


def test_a_request_that_left_is_not_added_to_a_batch() -> None:
    async def play(on: Stage) -> None:
        first = on.send(1)[1]
        ticket, _ = on.send(2)
        on.scheduler.leave(ticket)
        on.engine.give_turn()

        assert identities([await outcome(first)]) == [1]
        assert on.engine.batches == [[1]]

    on_stage(play, FakeEngine(waits_its_turn=True))


def test_batches_do_not_grow_if_slots_decode() -> None:
    async def play(on: Stage) -> None:
        on.engine.give_turn()

        assert identities([await outcome(on.send(1)[1])]) == [1]

    on_stage(play, FakeEngine(waits_its_turn=True), own_decoders=False)


def test_only_the_broken_image_fails_if_it_was_added_later() -> None:
    async def play(on: Stage) -> None:
        answers = [on.send(identity)[1] for identity in range(4)]
        on.engine.give_turn()
        results = [await outcome(answer) for answer in answers]

        assert isinstance(results.pop(2), EngineFailed)
        assert identities(results) == [0, 1, 3]

    on_stage(play, FakeEngine(waits_its_turn=True, breaking={2}))


def test_low_device_memory_reduces_the_batch_size_and_every_image_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play(on: Stage) -> None:
        answers = [on.send(identity)[1] for identity in range(9)]
        on.engine.release(1000)
        with caplog.at_level(logging.WARNING):
            results = [await outcome(answer) for answer in answers]

        assert identities(results) == list(range(9))
        assert on.lane.limits.max_batch_size == 2
        assert "limiting batches to 2" in caplog.text

        more = [on.send(identity)[1] for identity in range(5)]
        assert identities([await outcome(answer) for answer in more]) == list(range(5))
        # No batch larger than the new limit is tried.
        assert max(map(len, on.engine.batches[-3:])) <= 2

    on_stage(play, FakeEngine(held=True, largest_batch=2))


def test_an_image_that_never_fits_is_shed_without_a_crash() -> None:
    async def play(on: Stage) -> None:
        result = await outcome(on.send(1)[1])

        assert isinstance(result, Overloaded)
        assert result.retry_after_s
        assert on.shed("device-memory") == 1
        assert on.wedged.empty()

    on_stage(play, FakeEngine(largest_batch=0))


def test_a_lost_device_is_not_retried_and_ends_the_service() -> None:
    async def play(on: Stage) -> None:
        answers = [on.send(identity)[1] for identity in range(9)]
        on.engine.release(1000)

        reason = await on.wedged.get()

        assert "slot 0 lost its device" in reason
        assert "illegal memory access" in reason
        results = [await outcome(answer) for answer in answers[1:]]
        assert all(isinstance(result, EngineFailed) for result in results)
        assert on.engine.batches == [[0], list(range(1, 9))]  # not halved

    on_stage(play, FakeEngine(held=True, losing={5}))


def test_waiting_images_are_not_sent_to_a_lost_device() -> None:
    async def play(on: Stage) -> None:
        on.send(0)
        for identity in range(1, 9):
            on.send(identity)
        on.engine.release(1000)

        await on.wedged.get()
        on.send(9)

        assert on.engine.batches == [[0]]

    on_stage(play, FakeEngine(held=True, losing={0}))


def test_a_batch_goes_to_the_least_loaded_device() -> None:
    async def play(on: Stage) -> None:
        for identity in range(4):
            on.send(identity)
            await on.started(identity + 1)

        devices = [on.engine.device_of(slot) for slot in on.engine.slots_used]
        assert sorted(devices[:2]) == [0, 1]
        assert sorted(devices[2:]) == [0, 1]

    on_stage(play, FakeEngine(slots=4, held=True, devices=(0, 0, 1, 1)))


def test_parts_of_batches_are_recorded_if_they_are_known() -> None:
    class Timed(FakeEngine):
        def parts_s(self, slot: int) -> dict[str, float]:
            return {"copy_in": 0.25, "compute": 0.5, "copy_out": 0.125}

    async def play(on: Stage) -> None:
        await outcome(on.send(1)[1])

        assert on.value("tidegate_batch_duration_seconds_sum", part="compute") == 0.5
        assert on.value("tidegate_batch_duration_seconds_count", part="copy_in") == 1

    on_stage(play, Timed())
