"""What a process and its children cost, read from Linux's /proc."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far, and memory now, of a process tree.

    `rss_mb` adds the processes up, so that memory shared between them counts more than once.
    CPU comes in ticks of 10 ms: measure over seconds.
    """

    cpu_s: float
    rss_mb: float
    peak_rss_mb: float

    def since(self, earlier: "Usage") -> "Usage":
        """CPU spent since `earlier`; memory stays as it is now."""
        return Usage(self.cpu_s - earlier.cpu_s, self.rss_mb, self.peak_rss_mb)


def usage(pid: int) -> Usage:
    """Read a process and all its descendants; raises ProcessLookupError when `pid` is gone."""
    stats = _all_stats()
    if pid not in stats:
        raise ProcessLookupError(f"no process {pid}")
    tree = list(_descendants(pid, stats))
    memory = [_memory_mb(p) for p in tree]
    return Usage(
        cpu_s=sum(stats[p][1] for p in tree),
        rss_mb=sum(rss for rss, _ in memory),
        peak_rss_mb=sum(peak for _, peak in memory),
    )


def _all_stats() -> dict[int, tuple[int, float]]:
    """pid → (parent, CPU seconds with those of its reaped children)."""
    found = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal() and (stat := _stat(entry)) is not None:
            found[int(entry.name)] = stat
    return found


def _stat(entry: Path) -> tuple[int, float] | None:
    try:
        text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # it ended while we were looking
        return None
    # The command name, in parentheses, may hold spaces and parentheses: split after the last one.
    fields = text.rpartition(")")[2].split()
    parent, ticks = int(fields[1]), sum(int(f) for f in fields[11:15])  # u, s, cu, cs
    return parent, ticks / _TICKS_PER_S


def _descendants(pid: int, stats: dict[int, tuple[int, float]]) -> Iterator[int]:
    yield pid
    for child, (parent, _) in stats.items():
        if parent == pid:
            yield from _descendants(child, stats)


def _memory_mb(pid: int) -> tuple[float, float]:
    """(resident now, its peak); a process that has just ended weighs nothing."""
    try:
        lines = (PROC / str(pid) / "status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0.0
    kilobytes = {k: int(v.split()[0]) for k, _, v in (x.partition(":") for x in lines) if "kB" in v}
    return kilobytes.get("VmRSS", 0) / 1024, kilobytes.get("VmHWM", 0) / 1024
