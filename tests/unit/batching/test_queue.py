"""The order by deadline and the counts of requests before an arrival, against a plain sort."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.service.batching.policy import Waiting
from tidegate.service.batching.queue import AdmittedKeys, FairQueue
from tidegate.service.types import Priority

# Few distinct deadlines, so that ties are common.
requests = st.lists(st.tuples(st.sampled_from(Priority), st.integers(0, 5)), max_size=40).map(
    lambda drawn: [Waiting(p, float(d), i) for i, (p, d) in enumerate(drawn)]
)


def queue_of(waiting: list[Waiting]) -> FairQueue[Waiting]:
    queue: FairQueue[Waiting] = FairQueue()
    for request in waiting:
        queue.insert(request)
    return queue


@pytest.mark.lengthy
@settings(max_examples=100, deadline=None)
@given(requests, st.randoms(use_true_random=False))
def test_requests_leave_by_class_then_deadline_then_arrival(
    waiting: list[Waiting], random: random.Random
) -> None:
    shuffled = random.sample(waiting, len(waiting))

    assert list(queue_of(shuffled).take(())) == sorted(waiting, key=lambda r: r.key)


@pytest.mark.lengthy
@settings(max_examples=100, deadline=None)
@given(requests, st.data())
def test_removed_requests_are_not_yielded_and_the_others_keep_their_order(
    waiting: list[Waiting], data: st.DataObject
) -> None:
    gone = data.draw(st.sets(st.sampled_from(waiting)) if waiting else st.just(set()))
    queue = queue_of(waiting)

    for request in gone:
        queue.remove(request)

    assert len(queue) == len(waiting) - len(gone)
    left = [request for request in waiting if request not in gone]
    assert list(queue.take(())) == sorted(left, key=lambda r: r.key)


def test_removing_a_request_that_is_not_in_the_queue_raises() -> None:
    queue = queue_of([Waiting(Priority.INTERACTIVE, 1.0, 0)])

    with pytest.raises(KeyError):
        queue.remove(Waiting(Priority.INTERACTIVE, 1.0, 0))  # same key, but another request
    with pytest.raises(KeyError):
        queue.remove(Waiting(Priority.BULK, 9.0, 1))


def test_requests_that_are_not_yielded_stay_in_the_queue() -> None:
    waiting = [Waiting(Priority.INTERACTIVE, float(i), i) for i in range(5)]
    queue = queue_of(waiting)

    head = queue.take(())

    assert [next(head), next(head)] == waiting[:2]
    assert len(queue) == 3
    assert list(queue.take(())) == waiting[2:]


@settings(max_examples=100, deadline=None)
@given(requests, st.sampled_from(Priority), st.integers(0, 5))
def test_before_counts_requests_of_a_higher_class_or_no_later_deadline(
    waiting: list[Waiting], priority: Priority, deadline: int
) -> None:
    order = AdmittedKeys()
    for request in waiting:
        order.add(request)

    ahead = [r for r in waiting if (r.priority, r.deadline) <= (priority, deadline)]

    assert len(order) == len(waiting)
    assert order.before(priority, float(deadline)) == len(ahead)


@settings(max_examples=50, deadline=None)
@given(requests)
def test_before_is_the_position_at_which_an_arrival_is_inserted(waiting: list[Waiting]) -> None:
    order, queue = AdmittedKeys(), queue_of(waiting)
    for request in waiting:
        order.add(request)
    arrival = Waiting(Priority.INTERACTIVE, 2.0, len(waiting))

    queue.insert(arrival)

    assert list(queue.take(())).index(arrival) == order.before(Priority.INTERACTIVE, 2.0)


def test_discarding_twice_counts_once() -> None:
    order = AdmittedKeys()
    first, second = (Waiting(Priority.INTERACTIVE, 1.0, i) for i in range(2))
    order.add(first)
    order.add(second)

    order.discard(first)
    order.discard(first)

    assert len(order) == 1
    assert order.before(Priority.BULK, 0.0) == 1
