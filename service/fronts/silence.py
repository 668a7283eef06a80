"""How long a process has shown no sign of life while it could have."""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")
_LOOK_AFTER_S = 1.0  # a process that was alive so recently is not looked at


class Silence:
    """Leaves out the time in which a process wanted to run and no core was free.

    On a host that is overloaded, a process may get no core for seconds. One that hangs sleeps, is
    stopped, or runs.
    """

    def __init__(self, pid: int, proc: Path = _PROC) -> None:
        """Watch the main thread of a process; `proc` is the folder used as /proc."""
        self._statistics = proc / str(pid) / "schedstat"
        self._looked_for = 0.0  # the sign of life after which it was first looked at …
        self._waited_s = 0.0  # … and how long it had waited for a core then

    def seconds(self, alive_at: float, now: float) -> float:
        """Return how long it has been silent if its last sign of life was at `alive_at`."""
        silent_s = now - alive_at
        if silent_s < _LOOK_AFTER_S:
            return silent_s
        waited_s = self._waited_for_a_core_s()
        if alive_at != self._looked_for:
            self._looked_for, self._waited_s = alive_at, waited_s
        return silent_s - (waited_s - self._waited_s)

    def _waited_for_a_core_s(self) -> float:
        """Return the time since its start; 0 if the kernel does not count it."""
        try:
            return int(self._statistics.read_text("ascii").split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0
