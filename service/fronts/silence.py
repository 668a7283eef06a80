"""How long a process has shown no sign of life while it could have."""

from __future__ import annotations

import contextlib
from pathlib import Path

_PROC = Path("/proc")
_LOOK_AFTER_S = 1.0  # a process that was alive so recently is not looked at


class Silence:
    """Leaves out the time in which a thread of a process wanted to run and no core was free.

    On a host that is overloaded, a process may get no core for seconds, nor may its main thread
    while another one of its threads has the interpreter's lock and gets no core. A process that
    hangs sleeps, is stopped, or runs.
    """

    def __init__(self, pid: int, proc: Path = _PROC) -> None:
        """Watch the threads of a process; `proc` is the folder used as /proc."""
        self._threads = proc / str(pid) / "task"
        self._alive_at = 0.0
        self._waited_s: dict[str, float] = {}  # by thread, when it was first looked at after that

    def seconds(self, alive_at: float, now: float) -> float:
        """Return how long it has been silent if its last sign of life was at `alive_at`."""
        silent_s = now - alive_at
        if alive_at != self._alive_at:
            self._alive_at, self._waited_s = alive_at, {}
        if silent_s < _LOOK_AFTER_S:
            return silent_s
        waited_s = self._waited_for_a_core_s()
        self._waited_s = self._waited_s or waited_s
        known = self._waited_s.keys() & waited_s.keys()
        return silent_s - sum(waited_s[thread] - self._waited_s[thread] for thread in known)

    def _waited_for_a_core_s(self) -> dict[str, float]:
        """Return the time since its start by thread, of those for which the kernel counts it."""
        waited_s = {}
        with contextlib.suppress(OSError):  # it has ended
            for thread in self._threads.iterdir():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    text = (thread / "schedstat").read_text("ascii")
                    waited_s[thread.name] = int(text.split()[1]) / 1e9
        return waited_s
