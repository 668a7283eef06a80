"""How much memory a process holds, and the most it held since it was last looked at (Linux)."""

import asyncio
import time
from pathlib import Path

_RESET_PEAK = "5"  # proc(5), clear_refs
_LOOK_S = 0.05
_IDLE_TICKS = 1  # of CPU between two looks, at most


class Memory:
    """The resident memory of one process, in MB."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._clear = Path(f"/proc/{pid}/clear_refs")

    def resident_mb(self) -> float:
        """Return what it holds now; 0 once it has ended."""
        return self._field("VmRSS:")

    def peak_mb(self) -> float:
        """Return the most it held since `reset`; 0 once it has ended."""
        return self._field("VmHWM:")

    def reset(self) -> None:
        """Begin a new peak; do nothing where the kernel does not allow it."""
        try:
            self._clear.write_text(_RESET_PEAK, encoding="ascii")
        except OSError:
            return

    def _field(self, name: str) -> float:
        try:
            text = self._status.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return 0.0
        at = text.find(name)
        return int(text[at + len(name) :].split(maxsplit=1)[0]) / 1024 if at >= 0 else 0.0


async def until_idle(pid: int, timeout_s: float) -> None:
    """Wait until a process has used hardly any CPU for a moment, or for `timeout_s`."""
    end = time.monotonic() + timeout_s
    before = _cpu_ticks(pid)
    while time.monotonic() < end:
        await asyncio.sleep(_LOOK_S)
        now = _cpu_ticks(pid)
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
