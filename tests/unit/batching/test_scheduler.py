"""The scheduler: answers, order, shedding and metrics.

If a test needs requests to wait, the engine is held. The clock does not move by itself.
"""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from tests.fakes import FakeEngine, identity_in, picture
from tests.unit.batching.running import (
    FREE,
    PATIENCE_S,
    SEEDS,
    SINGLE_IMAGE_S,
    Stage,
    on_stage,
    outcome,
)
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.tickets import Answer
from tidegate.service.errors import DeadlineMissed, Draining, Overloaded, UndecodableImage
from tidegate.service.types import Pixels, Priority

BULK = Priority.BULK


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_each_answer_belongs_to_its_own_image(slots: int) -> None:
    engine = FakeEngine(slots=slots, max_batch_size=8)

    async def play(on: Stage) -> None:
        async def one(identity: int) -> Answer:
            ticket = on.admit(within_s=1e6)
            await asyncio.sleep(0)  # others are admitted in between, as while decoding
            return await on.submit(ticket, identity)

        answers = await asyncio.gather(*(one(identity) for identity in range(1000)))

        assert [identity_in(answer.outputs) for answer in answers] == list(range(1000))
        assert sorted(engine.seen) == list(range(1000))
        assert {answer.outputs.logits.shape[0] for answer in answers} == {1}

    on_stage(play, engine)


def test_on_an_idle_engine_an_image_runs_immediately_in_a_batch_of_one() -> None:
    async def play(on: Stage) -> None:
        _, answer = on.send(7)

        result = await answer

        assert on.engine.batches == [[7]]
        assert (result.batch_size, result.queue_s) == (1, 0.0)

    on_stage(play)


def test_a_single_image_runs_on_all_cores_and_the_next_on_a_slot() -> None:
    engine, all_cores_engine = FakeEngine(slots=2, held=True), FakeEngine(held=True)

    async def play(on: Stage) -> None:
        _, single = on.send(7)
        await asyncio.to_thread(all_cores_engine.wait_for, 1)
        _, concurrent = on.send(8)
        await on.started(1)

        all_cores_engine.release(1)
        assert identity_in((await single).outputs) == 7
        _, another = on.send(9)  # 8 still runs
        await on.started(2)
        engine.release(2)
        assert [identity_in((await a).outputs) for a in (concurrent, another)] == [8, 9]
        _, again = on.send(10)
        await asyncio.to_thread(all_cores_engine.wait_for, 2)
        all_cores_engine.release(1)
        await again

        assert (all_cores_engine.batches, engine.batches) == ([[7], [10]], [[8], [9]])

    on_stage(play, engine, all_cores_engine=all_cores_engine, own_decoders=False)


def test_several_waiting_images_run_as_a_batch_on_a_slot() -> None:
    engine, all_cores_engine = FakeEngine(max_batch_size=8), FakeEngine(held=True, max_batch_size=8)

    async def play(on: Stage) -> None:
        answers = [on.send(identity)[1] for identity in range(4)]
        await asyncio.to_thread(all_cores_engine.wait_for, 1)
        all_cores_engine.release(1)
        await asyncio.gather(*answers)

        assert (all_cores_engine.batches, engine.batches) == ([[0]], [[1, 2, 3]])

    on_stage(play, engine, all_cores_engine=all_cores_engine, own_decoders=False)


def test_a_single_image_is_predicted_and_learned_separately() -> None:
    async def play(on: Stage) -> None:
        ticket, answer = on.send(7)
        others = on.lane.latency.predict(1)
        await answer
        await on.send(8)[1]

        assert ticket.predicted_s == SINGLE_IMAGE_S
        assert on.lane.latency.predict(1) == others
        assert on.lane.latency.single_image_s < SINGLE_IMAGE_S  # the fake engine needs no time

    on_stage(play, all_cores_engine=FakeEngine(), own_decoders=False)


def test_images_that_wait_while_a_batch_runs_form_full_batches() -> None:
    async def play(on: Stage) -> None:
        answers = [on.send(identity)[1] for identity in range(21)]

        on.engine.release(100)
        results = await asyncio.gather(*answers)

        assert [len(batch) for batch in on.engine.batches] == [1, 8, 8, 4]
        assert on.engine.seen == list(range(21))
        assert [result.batch_size for result in results] == [1] + [8] * 16 + [4] * 4

    on_stage(play, FakeEngine(held=True, max_batch_size=8))


def test_the_shortest_time_limit_goes_first_within_its_class() -> None:
    async def play(on: Stage) -> None:
        on.send(0)
        answers = [
            on.send(1, within_s=9, priority=BULK)[1],
            on.send(2, within_s=40)[1],
            on.send(3, within_s=10)[1],
            on.send(4, within_s=4, priority=BULK)[1],
            on.send(5, within_s=20)[1],
        ]

        on.engine.release(100)
        await asyncio.gather(*answers)

        assert on.engine.batches == [[0], [3, 5], [2, 4], [1]]

    on_stage(play, FakeEngine(held=True, max_batch_size=2))


def test_every_idle_slot_takes_a_batch() -> None:
    async def play(on: Stage) -> None:
        answers = [on.send(identity)[1] for identity in range(3)]

        await on.started(3)

        assert not any(answer.done() for answer in answers)
        on.engine.release(3)
        await asyncio.gather(*answers)

    on_stage(play, FakeEngine(held=True, slots=3))


def test_a_request_past_its_deadline_never_reaches_the_engine() -> None:
    async def play(on: Stage) -> None:
        on.send(0)
        _, late = on.send(1, within_s=1)
        _, patient = on.send(2, within_s=60)

        on.clock.advance(5)
        on.engine.release(100)

        assert isinstance(await outcome(late), DeadlineMissed)
        assert identity_in((await patient).outputs) == 2
        assert on.engine.seen == [0, 2]
        assert on.shed("early-drop") == 1

    on_stage(play, FakeEngine(held=True))


def test_the_queue_delay_is_from_ready_to_dispatched() -> None:
    async def play(on: Stage) -> None:
        _, first = on.send(0)
        _, second = on.send(1)
        on.clock.advance(0.25)
        on.engine.release(100)

        assert (await first).queue_s == 0.0
        assert (await second).queue_s == pytest.approx(0.25)

    on_stage(play, FakeEngine(held=True))


def test_an_arrival_that_would_be_late_is_rejected_with_the_time_to_retry() -> None:
    async def play(on: Stage) -> None:
        for identity in range(1000):
            on.send(identity, within_s=1e6)

        with pytest.raises(Overloaded, match="within 1000 ms") as refused:
            on.admit(within_s=1, priority=BULK)

        # 999 wait for one slot: 1000 / 8 batches of 10 ms and the margin, minus the 1 s deadline.
        assert refused.value.retry_after_s == 1
        assert on.shed("predicted-late") == 1

    on_stage(play, FakeEngine(held=True))


def test_the_prediction_includes_a_running_batch_until_it_ends() -> None:
    async def play(on: Stage) -> None:
        enough_if_idle = 0.0113  # a batch of 10 ms and its margin
        _, answer = on.send(0)

        with pytest.raises(Overloaded):
            on.admit(enough_if_idle)
        on.engine.release()
        await answer
        on.admit(enough_if_idle)

    on_stage(play, FakeEngine(held=True))


def test_a_full_queue_rejects() -> None:
    async def play(on: Stage) -> None:
        on.send(0)  # runs
        tickets = [on.send(identity)[0] for identity in (1, 2, 3)]

        with pytest.raises(Overloaded) as refused:
            on.admit()

        assert refused.value.retry_after_s == 1
        assert on.shed("queue-full") == 1
        on.scheduler.leave(tickets[0])
        on.admit()

    on_stage(play, FakeEngine(held=True), max_queue=3)


def test_images_that_are_decoding_count_as_waiting() -> None:
    async def play(on: Stage) -> None:
        for _ in range(3):
            on.admit()

        assert on.scheduler.waiting == 3
        with pytest.raises(Overloaded):
            on.admit()

    on_stage(play, max_queue=3)


def test_a_deadline_that_cannot_be_met_without_load_is_rejected_before_any_work() -> None:
    async def play(on: Stage) -> None:
        with pytest.raises(DeadlineMissed, match=r"3 ms from now, .* 10.0 ms on an idle engine"):
            on.admit(within_s=0.003)

        assert on.shed("infeasible-deadline") == 1
        assert on.scheduler.waiting == 0

    on_stage(play)


def test_a_draining_scheduler_rejects_arrivals_and_finishes_admitted_requests() -> None:
    async def play(on: Stage) -> None:
        _, running = on.send(0)
        _, waiting = on.send(1)
        decoding = on.admit()

        on.scheduler.draining = True

        with pytest.raises(Draining):
            on.admit()
        assert on.shed("draining") == 1
        decoded_later = on.submit(decoding, 2)
        on.engine.release(100)
        results = await asyncio.gather(running, waiting, decoded_later)
        assert [identity_in(result.outputs) for result in results] == [0, 1, 2]

    on_stage(play, FakeEngine(held=True))


def test_waiting_counts_until_dispatched() -> None:
    async def play(on: Stage) -> None:
        ticket = on.admit()
        counts = [on.scheduler.waiting]
        answer = on.submit(ticket, 0)
        counts.append(on.scheduler.waiting)
        on.send(1)
        counts.append(on.scheduler.waiting)
        on.engine.release(100)
        await answer

        assert counts == [1, 0, 1]

    on_stage(play, FakeEngine(held=True))


def test_batches_and_their_time_are_counted() -> None:
    async def play(on: Stage) -> None:
        answers = [on.send(identity)[1] for identity in range(4)]
        on.engine.release(100)
        results = await asyncio.gather(*answers)

        assert on.value("tidegate_batch_size_count") == 2
        assert on.value("tidegate_batch_size_sum") == 4
        busy = results[0].engine_s + results[1].engine_s
        assert on.value("tidegate_slot_busy_seconds_total") == pytest.approx(busy)

    on_stage(play, FakeEngine(held=True))


def test_the_latency_model_learns_from_batches() -> None:
    seed_s = 1000.0

    async def play(on: Stage) -> None:
        on.lane.latency = LatencyModel({1: seed_s, 8: seed_s})
        for identity in range(70):
            await on.send(identity, within_s=100 * seed_s)[1]

        # A fake batch takes microseconds; on a busy machine a thread may wait for a second.
        assert on.lane.latency.predict(1) < seed_s

    on_stage(play)


@pytest.mark.parametrize("own_decoders", [True, False])
def test_an_image_is_decoded_and_run_by_slots_and_by_decoders(own_decoders: bool) -> None:
    async def play(on: Stage) -> None:
        answers = [on.run(on.admit(), partial(picture, identity)) for identity in range(50)]

        results = await asyncio.gather(*answers)

        assert [identity_in(result.outputs) for result in results] == list(range(50))
        assert all(result.decode_s > 0 for result in results)

    on_stage(play, FakeEngine(slots=2), own_decoders=own_decoders)


@pytest.mark.parametrize("own_decoders", [True, False])
def test_only_the_undecodable_image_fails_with_the_decoder_s_error(own_decoders: bool) -> None:
    def broken() -> Pixels:
        raise UndecodableImage("cut short")

    async def play(on: Stage) -> None:
        on.send(0)
        bad = on.run(on.admit(), broken)
        neighbours = [on.run(on.admit(), partial(picture, identity)) for identity in (1, 2)]
        on.engine.release(100)

        assert isinstance(await outcome(bad), UndecodableImage)
        results = await asyncio.gather(*neighbours)
        assert [identity_in(result.outputs) for result in results] == [1, 2]

    on_stage(play, FakeEngine(held=True), own_decoders=own_decoders)


def test_a_batch_without_a_decodable_image_never_reaches_the_engine() -> None:
    def broken() -> Pixels:
        raise UndecodableImage("cut short")

    async def play(on: Stage) -> None:
        assert isinstance(await outcome(on.run(on.admit(), broken)), UndecodableImage)
        assert on.engine.batches == []

        _, answer = on.send(3)
        assert identity_in((await answer).outputs) == 3

    on_stage(play, own_decoders=False)


@pytest.mark.parametrize("own_decoders", [True, False])
def test_the_image_of_a_request_that_left_while_waiting_is_never_run(own_decoders: bool) -> None:
    async def play(on: Stage) -> None:
        on.send(0)
        leaver, stayer = on.admit(), on.admit()
        gone = on.run(leaver, partial(picture, 1))
        stays = on.run(stayer, partial(picture, 2))
        on.scheduler.leave(leaver)
        on.engine.release(100)

        assert identity_in((await stays).outputs) == 2
        assert gone.cancelled()
        assert on.engine.seen == [0, 2]
        assert on.scheduler.waiting == 0

    on_stage(play, FakeEngine(held=True), own_decoders=own_decoders)


def test_slots_with_their_own_cores_share_the_ready_images() -> None:
    async def play(on: Stage) -> None:
        answers = [on.send(identity)[1] for identity in range(8)]
        await on.started(2)  # one image each
        on.engine.release(1)
        await on.started(3)  # half of the six that are ready

        assert [len(batch) for batch in on.engine.batches] == [1, 1, 3]
        on.engine.release(100)
        await asyncio.gather(*answers)

    on_stage(play, FakeEngine(held=True, slots=2), side_by_side=2)


def test_urgent_images_share_the_slots_but_no_batch_with_those_that_they_overtake() -> None:
    async def play(on: Stage) -> None:
        answers = [on.send(identity)[1] for identity in range(8)]
        await on.started(2)  # the others wait
        answers += [on.send(identity, within_s=1.0)[1] for identity in (8, 9)]
        on.engine.release(2)
        await on.started(4)

        assert sorted(on.engine.batches[2:4]) == [[8], [9]]  # the two slots race
        on.engine.release(100)
        await asyncio.gather(*answers)

    on_stage(play, FakeEngine(held=True, slots=2), side_by_side=2)


def test_if_slots_take_turns_an_urgent_image_runs_with_the_others() -> None:
    async def play(on: Stage) -> None:
        answers = [on.send(identity)[1] for identity in range(4)]
        await on.started(1)
        answers.append(on.send(4, within_s=1.0)[1])
        on.engine.release(1)
        await on.started(2)

        assert on.engine.batches[1:] == [[4, 1, 2, 3]]
        on.engine.release(100)
        await asyncio.gather(*answers)

    on_stage(play, FakeEngine(held=True))


def test_the_prediction_includes_the_images_ahead() -> None:
    async def play(on: Stage) -> None:
        idle_s = on.admit().predicted_s
        for identity in range(50):
            on.send(identity)

        assert on.admit().predicted_s > idle_s + 4 * SEEDS[8]

    on_stage(play, FakeEngine(held=True))


def test_a_stuck_decoder_is_not_reported_as_a_stuck_engine() -> None:
    async def play(on: Stage) -> None:
        gate = threading.Event()

        def stuck() -> Pixels:
            gate.wait(PATIENCE_S)
            return picture(1)

        answer = on.run(on.admit(), stuck)
        later = (
            asyncio.Event()
        )  # timers fire in order: the watchdog's has fired several times by then
        asyncio.get_running_loop().call_later(0.05, later.set)
        await later.wait()
        assert on.wedged.empty()
        gate.set()
        assert identity_in((await answer).outputs) == 1

    on_stage(play, engine_timeout_s=0.01, own_decoders=False)


LARGE = DecodeCost("PNG", 1.0, large=True)


def test_small_images_do_not_wait_for_large_ones() -> None:
    async def play(on: Stage) -> None:
        gate = threading.Event()

        def slow(identity: int) -> Pixels:
            gate.wait(PATIENCE_S)
            return picture(identity)

        large = [on.run(on.admit(cost=LARGE), partial(slow, identity)) for identity in range(3)]
        small = [on.run(on.admit(within_s=1), partial(picture, 9)) for _ in range(20)]
        await asyncio.gather(*small)

        assert on.engine.seen == [9] * 20
        assert on.scheduler.waiting == 3
        gate.set()
        results = await asyncio.gather(*large)
        assert [identity_in(result.outputs) for result in results] == [0, 1, 2]
        assert all(result.decode_s > 0 for result in results)
        assert on.scheduler.waiting == 0

    on_stage(play, own_decoders=False, large_decoders=1)


def test_the_number_of_waiting_large_images_is_bounded() -> None:
    async def play(on: Stage) -> None:
        waiting = [on.admit(cost=LARGE) for _ in range(8)]

        with pytest.raises(Overloaded):
            on.admit(cost=LARGE)

        assert on.shed("queue-full") == 1
        on.admit()  # a small image is admitted
        on.scheduler.leave(waiting[0])
        on.admit(cost=LARGE)

    on_stage(play, own_decoders=False, large_decoders=1)


def test_a_large_image_is_shed_if_the_ones_ahead_need_too_long() -> None:
    async def play(on: Stage) -> None:
        gate = threading.Event()

        def slow() -> Pixels:
            gate.wait(PATIENCE_S)
            return picture(1)

        answers = [on.run(on.admit(within_s=9, cost=LARGE), slow) for _ in range(4)]

        with pytest.raises(Overloaded) as refused:  # four of 1.25 s are ahead
            on.admit(within_s=10, cost=LARGE._replace(seconds=8.0))
        assert (refused.value.retry_after_s or 0) >= 4
        on.admit(within_s=10)
        gate.set()
        await asyncio.gather(*answers)

    on_stage(play, own_decoders=False, large_decoders=1)


def test_the_engine_s_time_does_not_count_as_decode_time() -> None:
    async def play(on: Stage) -> None:
        for _ in range(100):
            on.lane.latency.observe(1, 5.0)
        gate = threading.Event()

        def slow() -> Pixels:
            gate.wait(PATIENCE_S)
            return picture(1)

        # Five decodes of 1.25 s and 5.6 s of the engine fit the deadline.
        answers = [on.run(on.admit(within_s=15, cost=LARGE), slow) for _ in range(5)]
        gate.set()
        await asyncio.gather(*answers)

    on_stage(play, own_decoders=False, large_decoders=1)


def test_an_interactive_image_is_not_refused_for_bulk_images_that_it_overtakes() -> None:
    photo = DecodeCost("JPEG", 0.05)

    async def play(on: Stage) -> None:
        gate = threading.Event()

        def slow() -> Pixels:
            gate.wait(PATIENCE_S)
            return picture(1)

        bulk = [on.run(on.admit(60, Priority.BULK, photo), slow) for _ in range(400)]

        interactive = on.run(on.admit(0.5, cost=photo), slow)
        gate.set()
        await asyncio.gather(interactive, *bulk)

    on_stage(play)


def test_the_usual_wait_for_a_decoder_is_predicted_without_a_margin() -> None:
    photo = DecodeCost("JPEG", 1.0)

    async def play(on: Stage) -> None:
        gate = threading.Event()

        def slow() -> Pixels:
            gate.wait(PATIENCE_S)
            return picture(1)

        answers = [on.run(on.admit(cost=photo), slow) for _ in range(8)]
        last = on.admit(cost=photo)

        assert last.predicted_s == pytest.approx(8 / 2 + 1, abs=0.2)  # two decoders
        on.scheduler.leave(last)
        gate.set()
        await asyncio.gather(*answers)

    on_stage(play)


@pytest.mark.parametrize("decoders", ["slots", "own", "large"])
def test_an_idle_service_admits_after_any_decode_times(decoders: str) -> None:
    """14 images of four seconds each once made all later deadlines infeasible, permanently."""
    hostile = DecodeCost("JPEG", 4.0, large=decoders == "large")

    async def play(on: Stage) -> None:
        def slow() -> Pixels:
            raise UndecodableImage("after a long time")

        for _ in range(14):
            await outcome(on.run(on.admit(cost=hostile), slow))
        for _ in range(64):
            on.scheduler._admission.observe_decode(hostile, 1000.0, on.clock())

        assert on.admit(within_s=0.25, cost=hostile._replace(seconds=0.01)).queued

    own = decoders == "own"
    on_stage(play, own_decoders=own, large_decoders=1 if decoders == "large" else None)


def test_a_client_that_floods_leaves_room_for_the_others() -> None:
    async def play(on: Stage) -> None:
        def flood(client: str, most: int = 10_000) -> int:
            for sent in range(most):
                try:
                    on.submit(on.admit(within_s=1, client=client), 0)
                except Overloaded:
                    return sent
            return most

        on.admit(client="modest")
        flood("greedy")

        assert on.shed("client-share") == 1
        assert flood("modest", most=20) == 20

    on_stage(play, FakeEngine(held=True))


@pytest.mark.parametrize("victim", ["slot", "decoder", "large decoder"])
def test_a_thread_that_dies_is_a_failure_of_the_service(victim: str) -> None:
    async def play(on: Stage) -> None:
        def fatal() -> Pixels:
            raise SystemExit(1)  # like a denied system call: no handler catches it

        on.run(on.admit(cost=LARGE if victim == "large decoder" else FREE), fatal)

        assert "ended unexpectedly" in await on.wedged.get()

    on_stage(
        play,
        own_decoders=victim != "slot",
        large_decoders=1 if victim == "large decoder" else None,
    )
