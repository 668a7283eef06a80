"""Admission and batch forming: values in, decisions out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.policy import (
    Backlog,
    BatchPlan,
    Limits,
    Waiting,
    eta_s,
    form_batch,
    images_for_slot,
    refuse,
)
from tidegate.service.batching.queue import FairQueue
from tidegate.service.types import Priority


@dataclass(frozen=True)
class Linear:
    """ℓ(b) = 10 + b milliseconds, known exactly."""

    unloaded_s: float = 0.011

    def predict(self, images: int) -> float:
        return 0.010 + 0.001 * images


LATENCY = Linear()
LIMITS = Limits(max_batch_size=4, max_queue=100)
IDLE = Backlog(slots_free_in_s=[0.0], waiting=0, ahead=0)


class TestEta:
    """When an arrival would be answered, computed by hand."""

    def test_on_an_idle_engine_it_is_one_batch_of_one(self) -> None:
        assert eta_s(IDLE, LATENCY, 4) == pytest.approx(0.011)

    def test_the_decode_time_is_added(self) -> None:
        assert eta_s(IDLE._replace(own_decode_s=0.002), LATENCY, 4) == pytest.approx(0.002 + 0.011)

    def test_a_slot_that_decodes_needs_longer_for_each_image(self) -> None:
        backlog = IDLE._replace(waiting=5, ahead=5, slot_decode_s=0.1, own_slot_decode_s=0.3)

        # A full batch decodes four images; the arrival's batch has one more image before it.
        assert eta_s(backlog, LATENCY, 4) == pytest.approx(0.014 + 0.4 + 0.012 + 0.1 + 0.3)

    def test_images_ahead_share_the_arrival_s_batch_if_they_fit(self) -> None:
        backlog = IDLE._replace(waiting=3, ahead=3)

        assert eta_s(backlog, LATENCY, 4) == pytest.approx(0.014)

    def test_full_batches_go_first(self) -> None:
        backlog = IDLE._replace(waiting=9, ahead=9)

        assert eta_s(backlog, LATENCY, 4) == pytest.approx(2 * 0.014 + 0.012)

    def test_only_the_requests_ahead_count(self) -> None:
        backlog = IDLE._replace(waiting=90, ahead=1)

        assert eta_s(backlog, LATENCY, 4) == pytest.approx(0.012)

    def test_it_includes_the_wait_for_a_busy_slot(self) -> None:
        backlog = IDLE._replace(slots_free_in_s=[0.020])

        assert eta_s(backlog, LATENCY, 4) == pytest.approx(0.020 + 0.011)

    def test_full_batches_spread_over_the_slots(self) -> None:
        slots = [0.030, 0.0, 0.010]
        backlog = IDLE._replace(slots_free_in_s=slots, waiting=16, ahead=16)

        # Slots are free at 0, 10 and 30 ms; the fourth batch follows the first, then the arrival's.
        assert eta_s(backlog._replace(ahead=8), LATENCY, 4) == pytest.approx(0.030 + 0.011)
        assert eta_s(backlog, LATENCY, 4) == pytest.approx(0.010 + 0.014 + 0.011)

    def test_decoding_and_the_engine_work_at_the_same_time(self) -> None:
        backlog = IDLE._replace(slots_free_in_s=[0.020], waiting=5, decoders_free_in_s=0.004)

        # Decoded after 6 ms, before the slot is free at 20.
        decoded = backlog._replace(own_decode_s=0.002)
        assert eta_s(decoded, LATENCY, 4) == pytest.approx(0.020 + 0.011)
        slow = backlog._replace(own_decode_s=0.026)
        assert eta_s(slow, LATENCY, 4) == pytest.approx(0.030 + 0.011)

    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 60), st.integers(1, 5), st.floats(0, 0.1))
    def test_it_does_not_decrease_with_more_work_ahead(
        self, ahead: int, slots: int, busy: float
    ) -> None:
        backlog = IDLE._replace(slots_free_in_s=[busy] * slots, waiting=ahead, ahead=ahead)

        worse = backlog._replace(waiting=ahead + slots * 4, ahead=ahead + slots * 4)

        assert eta_s(worse, LATENCY, 4) >= eta_s(backlog, LATENCY, 4)


class TestAdmission:
    """Admit, or return the reason for the rejection and when to retry."""

    def test_an_idle_service_admits(self) -> None:
        assert refuse(1.0, IDLE, LATENCY, LIMITS) is None

    def test_an_idle_service_admits_whatever_the_prediction(self) -> None:
        slow = IDLE._replace(own_decode_s=9.0, own_slot_decode_s=9.0, slot_decode_s=9.0)

        assert refuse(0.012, IDLE, LATENCY, LIMITS) is None
        assert refuse(0.012, slow, LATENCY, LIMITS) is None

    def test_a_deadline_that_cannot_be_met_without_load_is_infeasible(self) -> None:
        refusal = refuse(0.0109, IDLE, LATENCY, LIMITS)

        assert refusal is not None
        assert (refusal.reason, refusal.retry_after_s) == ("infeasible-deadline", None)

    @pytest.mark.parametrize("left_s", [0.0, -1.0, -math.inf])
    def test_a_deadline_in_the_past_is_infeasible(self, left_s: float) -> None:
        refusal = refuse(left_s, IDLE, LATENCY, LIMITS)

        assert refusal is not None
        assert refusal.reason == "infeasible-deadline"

    def test_an_arrival_that_would_be_late_is_rejected_with_the_time_to_retry(self) -> None:
        busy = IDLE._replace(slots_free_in_s=[2.5])

        refusal = refuse(0.100, busy, LATENCY, LIMITS)

        assert refusal is not None
        assert (refusal.reason, refusal.retry_after_s) == ("predicted-late", 3)

    def test_an_arrival_that_would_be_just_in_time_is_admitted(self) -> None:
        busy = IDLE._replace(slots_free_in_s=[0.5])

        assert refuse(0.5111, busy, LATENCY, LIMITS) is None
        assert refuse(0.5109, busy, LATENCY, LIMITS) is not None

    def test_a_full_queue_rejects_even_long_deadlines(self) -> None:
        full = IDLE._replace(waiting=100, ahead=100)

        refusal = refuse(1e6, full, LATENCY, LIMITS)

        assert refusal is not None
        assert (refusal.reason, refusal.retry_after_s) == ("queue-full", 1)
        assert refuse(1e6, full._replace(waiting=99), LATENCY, LIMITS) is None

    @pytest.mark.lengthy
    @settings(max_examples=200, deadline=None)
    @given(
        left_s=st.floats(0.011, 20),
        busy=st.lists(st.floats(0, 20), min_size=1, max_size=4),
        ahead=st.integers(0, 99),
        decoding_s=st.floats(0, 20),
    )
    def test_retry_after_is_the_lateness_in_whole_seconds(
        self, left_s: float, busy: list[float], ahead: int, decoding_s: float
    ) -> None:
        backlog = Backlog(busy, ahead, ahead, decoders_free_in_s=decoding_s, own_decode_s=0.002)

        refusal = refuse(left_s, backlog, LATENCY, LIMITS)

        if refusal is not None:
            late_s = eta_s(backlog, LATENCY, LIMITS.max_batch_size) - left_s
            assert late_s > 0
            assert refusal.retry_after_s == max(1, math.ceil(late_s))


@st.composite
def queues(draw: st.DrawFn) -> list[Waiting]:
    """Draw requests of both classes, some with deadlines that have passed."""
    drawn = draw(st.lists(st.tuples(st.sampled_from(Priority), st.integers(-20, 60)), max_size=30))
    return [Waiting(p, milliseconds / 1000, i) for i, (p, milliseconds) in enumerate(drawn)]


def planned(waiting: list[Waiting], now: float = 0.0) -> tuple[BatchPlan[Waiting], list[Waiting]]:
    """Return the plan, and what it left in the queue."""
    queue: FairQueue[Waiting] = FairQueue()
    for request in waiting:
        queue.insert(request)
    decided = form_batch(now, queue.take(()), len(waiting), LATENCY, LIMITS.max_batch_size)
    return decided, list(queue.take(()))


class TestFormBatch:
    """Which requests run together, and which are shed as late."""

    @pytest.mark.lengthy
    @settings(max_examples=300, deadline=None)
    @given(queues())
    def test_every_request_is_dispatched_shed_or_left_and_only_once(
        self, waiting: list[Waiting]
    ) -> None:
        decided, left = planned(waiting)

        together = [*decided.dispatch, *decided.shed, *left]
        assert sorted(r.arrival for r in together) == list(range(len(waiting)))

    @pytest.mark.lengthy
    @settings(max_examples=300, deadline=None)
    @given(queues())
    def test_dispatched_requests_meet_their_deadlines(self, waiting: list[Waiting]) -> None:
        decided, _ = planned(waiting)

        took = LATENCY.predict(len(decided.dispatch))
        assert all(took <= request.deadline for request in decided.dispatch)

    @pytest.mark.lengthy
    @settings(max_examples=300, deadline=None)
    @given(queues())
    def test_shed_requests_would_miss_their_deadlines_in_a_full_batch(
        self, waiting: list[Waiting]
    ) -> None:
        decided, _ = planned(waiting)

        slowest = LATENCY.predict(min(len(waiting), LIMITS.max_batch_size))
        assert all(slowest > request.deadline for request in decided.shed)

    @pytest.mark.lengthy
    @settings(max_examples=300, deadline=None)
    @given(queues())
    def test_a_batch_is_as_full_as_possible(self, waiting: list[Waiting]) -> None:
        decided, left = planned(waiting)

        assert len(decided.dispatch) == LIMITS.max_batch_size or not left

    @pytest.mark.lengthy
    @settings(max_examples=300, deadline=None)
    @given(queues())
    def test_no_request_overtakes_another(self, waiting: list[Waiting]) -> None:
        decided, left = planned(waiting)

        keys = [request.key for request in decided.dispatch]
        assert keys == sorted(keys)
        assert all(key <= request.key for key in keys for request in left)

    def test_a_batch_is_not_limited_by_its_earliest_deadline(self) -> None:
        tight, *patient = (Waiting(Priority.INTERACTIVE, d, i) for i, d in enumerate([0.012, 9, 9]))

        decided, _ = planned([tight, *patient])

        assert (decided.dispatch, decided.shed) == (patient, [tight])

    def test_shed_requests_do_not_count_in_the_batch(self) -> None:
        gone, too, just = (
            Waiting(Priority.INTERACTIVE, d, i) for i, d in enumerate([0.001, 0.002, 0.0110])
        )

        decided, _ = planned([gone, too, just])

        assert (decided.dispatch, decided.shed) == ([just], [gone, too])

    def test_a_single_request_runs_unless_even_an_idle_engine_would_be_late(self) -> None:
        just, hopeless = (Waiting(Priority.INTERACTIVE, d, 0) for d in (0.0110, 0.0109))

        assert planned([just])[0].dispatch == [just]
        assert planned([hopeless])[0].shed == [hopeless]

    def test_an_empty_queue_gives_an_empty_plan(self) -> None:
        assert planned([]) == (BatchPlan(), [])


def test_a_prediction_that_a_stall_made_too_high_is_corrected() -> None:
    """During a stall one image took a second; then the engine is as fast as before."""
    latency, deadline_s = LatencyModel({1: 0.010}), 0.100
    for _ in range(64):
        latency.observe(1, 1.0)

    answered = 0
    for arrival in range(200):  # one at a time, each on an idle engine
        if refuse(deadline_s, IDLE, latency, LIMITS) is None:
            request = Waiting(Priority.INTERACTIVE, deadline_s, arrival)
            if form_batch(0.0, iter([request]), 1, latency, 4).dispatch:
                latency.observe(1, 0.010)
                answered += 1

    assert answered == 200
    assert latency.predict(1) < deadline_s


def test_an_idle_service_admits_despite_a_high_decode_prediction() -> None:
    slow = IDLE._replace(own_decode_s=3.0)  # as after a burst of huge images

    assert refuse(0.100, slow, LATENCY, LIMITS) is None
    assert refuse(0.100, slow._replace(decoders_free_in_s=0.001), LATENCY, LIMITS) is not None


@pytest.mark.parametrize(
    ("ready", "side_by_side", "expected"),
    [(1, 2, 1), (3, 2, 2), (4, 2, 2), (9, 2, 4), (3, 1, 3), (9, 1, 4), (2, 8, 1)],
)
def test_a_slot_gets_its_share_of_the_ready_images(
    ready: int, side_by_side: int, expected: int
) -> None:
    assert images_for_slot(ready, Limits(4, 100, side_by_side)) == expected
