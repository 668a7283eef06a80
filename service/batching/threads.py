"""Who yields to whom when there are more threads than cores, and who stays on which."""

from __future__ import annotations

import os
import sys
import threading


def be_nice(increment: int) -> None:
    """Have the calling thread yield to those of a lower niceness; 0 is the event loop's.

    A request that is refused, or an answer that is ready, should not wait for a core that decodes.
    Only Linux has a niceness per thread.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + increment)


def cores_for(threads: int) -> list[int | None]:
    """Return a core for each of so many busy threads, where there are exactly as many; else None.

    The kernel moves a thread that was interrupted, and leaves two of them on one core for
    milliseconds while another is idle. Where fewer threads than cores are busy, or the cores are
    other people's as well, it knows better than we do where to put them.
    """
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    return [*cores] if len(cores) == threads else [None] * threads


def stay_on(core: int | None) -> None:
    """Have the calling thread run on one core only; None leaves it where it is."""
    if sys.platform == "linux" and core is not None:
        os.sched_setaffinity(0, {core})
