"""The queue before the decoders: who waits for whom, and for how long."""

from __future__ import annotations

import itertools

import pytest

from tidegate.service.batching.decode_queue import AHEAD, DecodeQueue, Job
from tidegate.service.types import Priority

INTERACTIVE, BULK = Priority.INTERACTIVE, Priority.BULK
arrivals = itertools.count()


def job(priority: Priority = INTERACTIVE, deadline: float = 1.0, typical_s: float = 0.01) -> Job:
    def done(_: object, __: float) -> None: ...

    return Job(priority, deadline, next(arrivals), lambda: None, done, typical_s)


def busy(workers: int, *waiting: Job, typical_s: float = 0.01) -> DecodeQueue:
    """A queue whose decoders have all just started an image, at time 0."""
    queue = DecodeQueue(workers)
    for _ in range(workers):
        started = job(typical_s=typical_s)
        assert queue.add(started)
        started.started = 0.0
    for one in waiting:
        assert not queue.add(one)
    return queue


def test_an_idle_decoder_is_free_now() -> None:
    queue = DecodeQueue(2)
    queue.add(job())

    assert queue.free_in_s(INTERACTIVE, 1.0, 0.0) == 0.0


def test_an_interactive_image_does_not_wait_for_bulk_images_that_it_overtakes() -> None:
    bulk = [job(BULK, deadline=1.0, typical_s=0.05) for _ in range(400)]

    queue = busy(2, *bulk)

    assert queue.free_in_s(INTERACTIVE, 9.0, 0.0, typical=True) == pytest.approx(0.01)
    assert queue.free_in_s(BULK, 9.0, 0.0, typical=True) == pytest.approx(0.01 + 400 * 0.05 / 2)


def test_later_deadlines_do_not_count() -> None:
    queue = busy(1, job(deadline=5.0), job(deadline=2.0))

    assert queue.free_in_s(INTERACTIVE, 3.0, 0.0, typical=True) == pytest.approx(0.02)


def test_admission_counts_with_a_margin() -> None:
    queue = busy(2, *[job() for _ in range(8)])

    usual = queue.free_in_s(INTERACTIVE, 9.0, 0.0, typical=True)
    cautious = queue.free_in_s(INTERACTIVE, 9.0, 0.0)

    assert usual == pytest.approx(0.05)
    assert cautious == pytest.approx(0.05 * AHEAD)


def test_what_is_decoded_already_does_not_count() -> None:
    queue = busy(1, typical_s=0.01)

    assert queue.free_in_s(INTERACTIVE, 9.0, 0.004, typical=True) == pytest.approx(0.006)
    assert 0 < queue.free_in_s(INTERACTIVE, 9.0, 9.0) < 1e-6  # overdue, but not idle
