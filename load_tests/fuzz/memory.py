"""Current and peak memory of a process (Linux)."""

import asyncio
import contextlib
import time
from pathlib import Path

from load_tests.server.process_tree import descendants

_RESET_PEAK = "5"  # proc(5), clear_refs
_SAMPLE_S = 0.05
_IDLE_TICKS = 1  # largest CPU use between two samples of an idle process


class Memory:
    """Resident memory of a process and its children, which decode large images, in MB."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def resident_mb(self) -> float:
        """Return the current memory; 0 after they have exited."""
        return self._sum("VmRSS:")

    def peak_mb(self) -> float:
        """Return the sum of each process's peak since `reset`: an upper bound."""
        return self._sum("VmHWM:")

    def reset(self) -> None:
        """Reset the peaks; do nothing if the kernel does not allow it."""
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
    """Wait until a process and its children use almost no CPU, at most `timeout_s`."""
    end = time.monotonic() + timeout_s
    before = sum(map(_cpu_ticks, _tree(pid)))
    while time.monotonic() < end:
        await asyncio.sleep(_SAMPLE_S)
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
