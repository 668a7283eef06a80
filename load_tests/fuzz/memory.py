"""How much memory a process holds, and the most it held since it was last looked at (Linux)."""

import asyncio
import contextlib
import time
from pathlib import Path

from load_tests.server.process_tree import descendants

_RESET_PEAK = "5"  # proc(5), clear_refs
_LOOK_S = 0.05
_IDLE_TICKS = 1  # of CPU between two looks, at most


class Memory:
    """The resident memory of a process and its children, in MB: large images decode in those."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def resident_mb(self) -> float:
        """Return what they hold now; 0 once they have ended."""
        return self._sum("VmRSS:")

    def peak_mb(self) -> float:
        """Return the most that each held since `reset`, together: an upper bound."""
        return self._sum("VmHWM:")

    def reset(self) -> None:
        """Begin a new peak; do nothing where the kernel does not allow it."""
        for pid in _tree(self._pid):
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK, encoding="ascii")

    def _sum(self, name: str) -> float:
        return sum(_field(pid, name) for pid in _tree(self._pid))


def _tree(pid: int) -> list[int]:
    return [pid, *descendants(pid)]


def _field(pid: int, name: str) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    at = text.find(name)
    return int(text[at + len(name) :].split(maxsplit=1)[0]) / 1024 if at >= 0 else 0.0


async def until_idle(pid: int, timeout_s: float) -> None:
    """Wait until a process and its children use hardly any CPU, or for `timeout_s`."""
    end = time.monotonic() + timeout_s
    before = sum(map(_cpu_ticks, _tree(pid)))
    while time.monotonic() < end:
        await asyncio.sleep(_LOOK_S)
        now = sum(map(_cpu_ticks, _tree(pid)))
        if now - before <= _IDLE_TICKS:
            return
        before = now


def _cpu_ticks(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
