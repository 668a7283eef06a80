"""Who yields to whom when there are more threads than cores."""

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
