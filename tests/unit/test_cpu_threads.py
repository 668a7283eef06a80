"""Where a thread runs."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from tidegate.service.cpu import cores_to_pin, pin_to_core

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads are not placed")


def test_as_many_threads_as_cores_get_one_each() -> None:
    cores = os.sched_getaffinity(0)

    assert cores_to_pin(len(cores)) == sorted(cores)


@pytest.mark.parametrize("more", [-1, 1])
def test_fewer_or_more_threads_than_cores_are_the_kernels_to_place(more: int) -> None:
    threads = len(os.sched_getaffinity(0)) + more

    assert cores_to_pin(threads) == [None] * threads


def test_a_thread_stays_where_it_is_told_and_its_siblings_do_not() -> None:
    before, seen = os.sched_getaffinity(0), []
    last = max(before)

    def work() -> None:
        pin_to_core(last)
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert seen == [{last}]
    assert os.sched_getaffinity(0) == before
