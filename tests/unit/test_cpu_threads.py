"""Threads are pinned to cores if there are as many threads as cores."""

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
def test_fewer_or_more_threads_than_cores_are_placed_by_the_kernel(more: int) -> None:
    threads = len(os.sched_getaffinity(0)) + more

    assert cores_to_pin(threads) == [None] * threads


def test_only_the_calling_thread_is_pinned() -> None:
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
