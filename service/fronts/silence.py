"""How long a process has shown no sign of life while it could have."""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")
_LOOK_AFTER_S = 1.0  # a process that was alive so recently is not looked at
_RUNNABLE = "R"  # proc(5): it runs, or waits for a core


class Silence:
    """Leaves out the time in which a process wanted to run and no core was free.

    On a host that is overloaded, a process may get no core for seconds. One that hangs sleeps, is
    stopped, or runs.
    """

    def __init__(self, pid: int, proc: Path = _PROC) -> None:
        """Watch the main thread of a process; `proc` is the folder used as /proc."""
        self._folder = proc / str(pid)
        self._looked_for = 0.0  # the sign of life after which it was first looked at …
        self._waited_s = 0.0  # … and how long it had waited for a core then
        self._ran_ns = self._could_run_at = 0.0  # when it last ran, or did not want to

    def seconds(self, alive_at: float, now: float) -> float:
        """Return how long it has been silent if its last sign of life was at `alive_at`.

        Call it regularly: a wait for a core that goes on is seen between two calls.
        """
        silent_s = now - alive_at
        if silent_s < _LOOK_AFTER_S:
            return silent_s
        try:
            state, ran_ns, waited_s = self._look()
        except (OSError, ValueError, IndexError):  # the kernel does not count it
            return silent_s
        if alive_at != self._looked_for:
            self._looked_for, self._waited_s = alive_at, waited_s
            self._could_run_at = now
        if state != _RUNNABLE or ran_ns != self._ran_ns:
            self._ran_ns, self._could_run_at = ran_ns, now
        # The kernel adds a wait once it has ended.
        return silent_s - (waited_s - self._waited_s) - (now - self._could_run_at)

    def _look(self) -> tuple[str, float, float]:
        """Return its state, how long it has run, and how long it has waited, since its start."""
        ran, waited, _ = (self._folder / "schedstat").read_text("ascii").split()
        stat = (self._folder / "stat").read_text("utf-8", "replace")
        return stat.rpartition(")")[2].split()[0], float(ran), int(waited) / 1e9
