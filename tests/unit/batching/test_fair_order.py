"""The order: all stay in time if any order keeps them so, and then the short limits go first.

The reference tries every order of a few images that each take one unit of time.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.batching.burst_simulation import Burst, simulate
from tidegate.service.batching.demand import Demand
from tidegate.service.batching.policy import Pace, Waiting, haste
from tidegate.service.batching.queue import AdmittedKeys, FairQueue
from tidegate.service.batching.turns import Turns
from tidegate.service.types import Priority

INTERACTIVE = Priority.INTERACTIVE
IMAGE_S = 1.0
arrivals = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 8), st.integers(0, 2), st.integers(0, 3)),
    max_size=9,
)  # (when, time limit, haste, turn), in units of time


def done_at(order: Sequence[Waiting], free_at: Sequence[float]) -> list[float]:
    """Return when each image is done if they start in this order on the first free slot."""
    slots, done = sorted(free_at), []
    for _ in order:
        done.append(slots[0] + IMAGE_S)
        slots = sorted([*slots[1:], done[-1]])
    return done


def some_order_is_in_time(waiting: Sequence[Waiting], free_at: Sequence[float]) -> bool:
    return any(
        all(done <= one.deadline for one, done in zip(order, done_at(order, free_at), strict=True))
        for order in itertools.permutations(waiting)
    )


class Slots:
    """Slots of one unit per image that take from a `FairQueue`, as dispatch does."""

    def __init__(self, slots: int) -> None:
        self.free_at = [0.0] * slots
        self.queue: FairQueue[Waiting] = FairQueue()
        self.ran: list[tuple[Waiting, float]] = []  # and when it was done

    def pace(self, now: float) -> Pace:
        slots = len(self.free_at)
        left_s = sum(max(0.0, free - now) for free in self.free_at)
        return Pace(now + left_s / slots, IMAGE_S / slots, IMAGE_S)

    def run_until(self, now: float) -> None:
        """Start what a slot is free for before this time."""
        while len(self.queue) and (at := max(min(self.free_at), self.now)) < now:
            slot = self.free_at.index(min(self.free_at))
            chosen = self.queue.preferred(1)
            if not self.queue.may_go_first(chosen, lambda at=at: self.pace(at)):  # type: ignore[misc]
                chosen = self.queue.first(1)
            request = next(self.queue.take(chosen))
            self.free_at[slot] = at + IMAGE_S
            self.ran.append((request, at + IMAGE_S))
        self.now = now

    now = 0.0


@pytest.mark.lengthy
@settings(max_examples=300, deadline=None)
@given(arrivals, st.integers(1, 3))
def test_what_some_order_keeps_in_time_is_in_time(
    drawn: list[tuple[int, int, int, int]], count: int
) -> None:
    slots = Slots(count)
    for index, (when, limit, hurry, turn) in enumerate(sorted(drawn)):
        slots.run_until(when)
        arrival = Waiting(INTERACTIVE, when + limit, index, haste=hurry, turn=turn)
        waiting = [*slots.queue.first(99), arrival]
        free_at = [max(when, free) for free in slots.free_at]
        if some_order_is_in_time(waiting, free_at):  # otherwise it is rejected
            slots.queue.insert(arrival)
    slots.run_until(1e9)

    assert all(done <= request.deadline for request, done in slots.ran)


@pytest.mark.lengthy
@settings(max_examples=300, deadline=None)
@given(arrivals, st.integers(1, 3))
def test_an_image_runs_first_if_the_others_stay_in_time_behind_it(
    drawn: list[tuple[int, int, int, int]], count: int
) -> None:
    slots = Slots(count)
    for index, (_, limit, hurry, turn) in enumerate(drawn):
        slots.queue.insert(Waiting(INTERACTIVE, limit, index, haste=hurry, turn=turn))
    if not len(slots.queue):
        return
    chosen = slots.queue.preferred(1)
    behind = [one for one in slots.queue.first(99) if one is not chosen[0]]
    done = done_at([*chosen, *behind], slots.free_at)[1:]

    if slots.queue.may_go_first(chosen, lambda: slots.pace(0.0)):
        earlier = [
            (one, at) for one, at in zip(behind, done, strict=True) if one.key < chosen[0].key
        ]
        assert all(at <= one.deadline for one, at in earlier)
    elif count == 1:  # with one slot the prediction is exact
        assert any(at > one.deadline for one, at in zip(behind, done, strict=True))


@pytest.mark.lengthy
@settings(max_examples=200, deadline=None)
@given(arrivals, st.integers(1, 8))
def test_an_arrival_delays_others_if_their_order_is_in_time_only_without_it(
    drawn: list[tuple[int, int, int, int]], limit: int
) -> None:
    keys, waiting = AdmittedKeys(), []
    for index, (_, deadline, hurry, turn) in enumerate(drawn):
        waiting.append(Waiting(INTERACTIVE, deadline, index, haste=hurry, turn=turn))
        keys.add(waiting[-1])
    arrival = Waiting(INTERACTIVE, limit, len(waiting))
    by_deadline = sorted(waiting, key=lambda one: one.key)
    with_it = sorted([*waiting, arrival], key=lambda one: one.key)
    late_without = {
        one.arrival
        for one, at in zip(by_deadline, done_at(by_deadline, [0.0]), strict=True)
        if at > one.deadline
    }
    late_with = {
        one.arrival
        for one, at in zip(with_it, done_at(with_it, [0.0]), strict=True)
        if at > one.deadline and one is not arrival
    }

    delays = keys.delays(INTERACTIVE, limit, 0, lambda: Pace(0.0, IMAGE_S, IMAGE_S))

    assert delays == bool(late_with - late_without)


@pytest.mark.parametrize(
    ("now", "limit", "ran"),
    [(4.0, 6.5, "newcomer, job"), (5.0, 6.0, "job, newcomer")],
    ids=["a job with slack", "a job without slack"],
)
def test_a_newcomer_with_a_short_limit_waits_only_for_a_job_without_slack(
    now: float, limit: float, ran: str
) -> None:
    slots = Slots(1)
    job = [Waiting(INTERACTIVE, 10.0, index, haste=4, turn=index) for index in range(5)]
    newcomer = Waiting(INTERACTIVE, now + limit, 5, haste=0)  # its deadline is later
    for image in (*job, newcomer):
        slots.queue.insert(image)
    slots.now, slots.free_at = now, [now]

    slots.run_until(1e9)

    order = [*job, newcomer] if ran == "job, newcomer" else [newcomer, *job]
    assert [request for request, _ in slots.ran] == order


def test_a_job_does_not_starve_beside_short_limits_without_end() -> None:
    slots = Slots(1)
    slots.queue.insert(Waiting(INTERACTIVE, 20.0, 0, haste=5))
    for index in range(1, 60):  # one in the time of an image
        slots.queue.insert(Waiting(INTERACTIVE, index + 30.0, index, haste=0))
        slots.run_until(float(index))

    done = {request.arrival: at for request, at in slots.ran}
    assert done[0] == 20.0  # as late as it may be


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (1.0, 5.0)])
def test_two_jobs_run_by_the_weights_of_their_clients(weights: tuple[float, float]) -> None:
    turns, queue, level = Turns(), FairQueue[Waiting](), (INTERACTIVE, 0)
    for index in range(400):  # all of the first client's arrive before the second's
        client = index // 200
        turn = turns.next(level, str(client))
        turns.take(level, str(client), turn, 1 / weights[client])
        queue.insert(Waiting(INTERACTIVE, 1e9, index, turn=turn))

    ran = Counter(one.arrival // 200 for one in queue.preferred(120))

    assert ran[0] / ran[1] == pytest.approx(weights[0] / weights[1], rel=0.1)


def test_a_client_s_first_image_does_not_wait_for_another_one_s_job() -> None:
    turns, level = Turns(), (INTERACTIVE, 0)
    job = []
    for _ in range(100):
        job.append(turns.next(level, "job"))
        turns.take(level, "job", job[-1], 1.0)
    for turn in job[:40]:
        turns.dispatched(level, turn)

    assert turns.next(level, "person") == job[39]
    assert turns.next(level, "job") > job[99]


def test_a_client_without_images_is_forgotten() -> None:
    turns, level = Turns(), (INTERACTIVE, 0)
    for _ in range(3):
        turns.take(level, "job", turns.next(level, "job"), 1.0)
    for _ in range(3):
        turns.leave("job")

    assert turns.next(level, "job") == 0.0
    assert not turns._next


@pytest.mark.parametrize(
    ("limit_s", "longer_s", "alike"), [(0.25, 2.0, False), (0.99, 0.6, True), (2.0, 1e9, False)]
)
def test_limits_that_differ_by_less_than_a_factor_of_two_may_be_alike(
    limit_s: float, longer_s: float, alike: bool
) -> None:
    assert (haste(limit_s) == haste(longer_s)) == alike


@pytest.mark.parametrize(
    "world",
    [
        Burst(jitter=0.0, rounds=2),
        Burst(jitter=0.0, rounds=2, load=0.7, largest_batch=1),
        Burst(jitter=0.0, rounds=2, job="job", limit_s=2.0),
        Burst(jitter=0.0, rounds=2, images=600),
        Burst(jitter=0.0, rounds=2, engine_s=0.0034, in_company=0.72, largest_batch=4),
    ],
)
def test_what_is_admitted_is_in_time_if_the_predictions_are_right(world: Burst) -> None:
    fates = simulate(world).fates

    assert fates["job in time"] > 300
    assert not fates["job late"] + fates["others late"]


@pytest.mark.lengthy
def test_others_beside_a_job_wait_little_longer_than_in_the_best_order() -> None:
    ours, best = (simulate(Burst(rounds=6, order=order)) for order in ("fair", "best"))

    assert ours.quantile(0.99, disturbed=True) < 1.2 * best.quantile(0.99, disturbed=True)
    assert not ours.fates["others refused"] + ours.fates["others late"]


def test_a_person_waits_little_longer_beside_another_client_s_job_with_the_same_limit() -> None:
    seen = simulate(Burst(rounds=3, job="job", limit_s=2.0))

    undisturbed, disturbed = (seen.quantile(0.99, disturbed=d) for d in (False, True))
    assert disturbed < 2 * undisturbed  # by deadline 30 times


def test_a_job_leaves_room_for_the_short_limits_that_will_come() -> None:
    fates = simulate(Burst(rounds=2, images=600, jitter=0.0)).fates

    others = sum(count for fate, count in fates.items() if fate.startswith("others"))
    assert fates["others refused"] < 0.1 * others  # without it a fifth


def test_limits_count_as_mixed_for_as_long_as_another_one_came_lately() -> None:
    demand, short, long = Demand(), (INTERACTIVE, -2), (INTERACTIVE, 1)
    demand.add(short, 0.01, 0.0)
    assert not demand.is_mixed(short, 0.0)
    assert demand.is_mixed(long, 0.0)

    demand.add(long, 0.01, 5.0)
    assert demand.is_mixed(short, 14.0)
    assert not demand.is_mixed(short, 16.0)
    assert not demand.is_mixed(long, 16.0)
