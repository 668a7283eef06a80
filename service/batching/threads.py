"""Priorities of threads when there are more of them than cores, and their placement on cores."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


def lower_priority(increment: int) -> None:
    """Raise the calling thread's niceness; the event loop's is 0.

    A request that is refused, or an answer that is ready, should not wait for a core that decodes.
    Only Linux has a niceness per thread. A sandbox may forbid it: then all threads are equal.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with _allowed("setpriority"):
            nice = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, nice + increment)


def cores_to_pin(threads: int) -> list[int | None]:
    """Return a core for each of so many busy threads if there are exactly as many, else None.

    The kernel moves a thread that was interrupted, and leaves two of them on one core for
    milliseconds while another is idle. If fewer threads than cores are busy, or the cores are
    shared with others, the kernel knows better than we do where to put them.
    """
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    return [*cores] if len(cores) == threads else [None] * threads


def pin_to_core(core: int | None) -> None:
    """Have the calling thread run on one core only; None leaves it where it is.

    A sandbox may forbid it: then the kernel places the thread.
    """
    if sys.platform == "linux" and core is not None:
        with _allowed("sched_setaffinity"):
            os.sched_setaffinity(0, {core})


@contextmanager
def _allowed(call: str) -> Iterator[None]:
    """Log a system call that is denied, and go on: it was a nicety."""
    try:
        yield
    except OSError as error:
        log.info("%s is not permitted here (%s): threads run without it", call, error.strerror)
