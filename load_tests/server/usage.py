"""CPU time and memory of a process and its descendants, from Linux's /proc and CPU clocks."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SCHEDULED = 2  # CPUCLOCK_SCHED of Linux's posix-timers.h: user and system time, in nanoseconds


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far, and the current memory, threads and files of a process tree.

    `rss_mb` is the sum over the processes, so memory shared between them counts more than once.
    The CPU time of children that have ended has a resolution of 10 ms, all other of nanoseconds.
    """

    cpu_s: float
    rss_mb: float
    peak_rss_mb: float
    threads: int = 0
    open_files: int | None = None  # descriptors; None if a process of another user hides them
    main_thread_cpu_s: float = 0.0  # of the process itself: in an asyncio server, its event loop
    own_cpu_s: float = 0.0  # of the process without its descendants that still run

    def since(self, earlier: "Usage") -> "Usage":
        """Return the CPU time since `earlier`; the other fields keep their current values."""
        return replace(
            self,
            cpu_s=self.cpu_s - earlier.cpu_s,
            main_thread_cpu_s=self.main_thread_cpu_s - earlier.main_thread_cpu_s,
            own_cpu_s=self.own_cpu_s - earlier.own_cpu_s,
        )


def usage(pid: int) -> Usage:
    """Read a process and all its descendants; raises ProcessLookupError if `pid` is gone."""
    stats = _all_stats()
    if pid not in stats:
        raise ProcessLookupError(f"no process {pid}")
    tree = list(_descendants(pid, stats))
    statuses = [_status(p) for p in tree]
    files = [_open_files(p) for p in tree]
    return Usage(
        cpu_s=sum(_cpu_s(p, stats[p]) for p in tree),
        rss_mb=sum(status.get("VmRSS", 0) for status in statuses) / 1024,
        peak_rss_mb=sum(status.get("VmHWM", 0) for status in statuses) / 1024,
        threads=sum(status.get("Threads", 0) for status in statuses),
        open_files=None if None in files else sum(n for n in files if n is not None),
        own_cpu_s=_cpu_s(pid, stats[pid]),
        main_thread_cpu_s=_main_thread_cpu_s(pid),
    )


@dataclass(frozen=True)
class _Stat:
    """What /proc/PID/stat says; the times have a resolution of 10 ms."""

    parent: int
    own_s: float
    reaped_children_s: float


def _cpu_s(pid: int, stat: _Stat) -> float:
    try:
        return _clock_s(pid) + stat.reaped_children_s
    except OSError:  # it ended in the meantime
        return stat.own_s + stat.reaped_children_s


def _main_thread_cpu_s(pid: int) -> float:
    stat = _stat(PROC / str(pid) / "task" / str(pid))
    return 0.0 if stat is None else stat.own_s


def _clock_s(pid: int) -> float:
    """Read the CPU clock of a process, whose number clock_getcpuclockid(3) makes so."""
    return time.clock_gettime((~pid << 3) | _SCHEDULED)


def _all_stats() -> dict[int, _Stat]:
    found = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal() and (stat := _stat(entry)) is not None:
            found[int(entry.name)] = stat
    return found


def _stat(entry: Path) -> _Stat | None:
    try:
        text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # it ended in the meantime
        return None
    # The command name, in parentheses, may contain parentheses itself: split after the last one.
    fields = text.rpartition(")")[2].split()
    user, system, children_user, children_system = (int(f) / _TICKS_PER_S for f in fields[11:15])
    return _Stat(int(fields[1]), user + system, children_user + children_system)


def _descendants(pid: int, stats: dict[int, _Stat]) -> Iterator[int]:
    yield pid
    for child, stat in stats.items():
        if stat.parent == pid:
            yield from _descendants(child, stats)


def _status(pid: int) -> dict[str, int]:
    """Return the integer fields of /proc/PID/status (memory in kB); empty if it has ended."""
    try:
        text = (PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    words = ((key, value.split()) for key, _, value in pairs)
    return {key: int(value[0]) for key, value in words if value and value[0].isdecimal()}


def _open_files(pid: int) -> int | None:
    try:
        return len(os.listdir(PROC / str(pid) / "fd"))
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except PermissionError:
        return None
