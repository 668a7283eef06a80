"""CPU cores and threads: count the usable cores, pin threads and set their priority.

Cores are counted by affinity and by the CPU quotas of the control groups.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

log = logging.getLogger(__name__)

_ESCAPED = re.compile(r"\\([0-7]{3})")  # mountinfo writes a space as \040


@dataclass(frozen=True, slots=True)
class _Mount:
    """A mounted hierarchy of control groups that may have CPU quotas."""

    version: int
    root: PurePosixPath  # the group that is mounted
    point: PurePosixPath


def usable_cores() -> int:
    """Return how many cores this process may use, by affinity and control-group quotas."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = quota_cores(Path("/"), _read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
    return whole_cores(cores or 1, quota)


def whole_cores(cores: int, quota: float | None) -> int:
    """Return the quota as a number of cores, at least 1 and at most `cores`; None is no quota.

    The quota is rounded to the nearest number, and up from a half. Rounded up, a quota of 1.1 with
    2 threads would stop every thread, also the event loop's, for 45 of each 100 ms. Rounded down, a
    quota of 1.9 would leave nearly half of it unused. Rounded to the nearest, threads are stopped
    for at most a quarter of the time (a quota of 1.5 with 2 threads), and at most half a core is
    left to the event loop.
    """
    return cores if quota is None else max(1, min(cores, math.floor(quota + 0.5)))


def quota_cores(root: Path, cgroup: str, mountinfo: str) -> float | None:
    """Return the smallest CPU quota, in cores, of a process's groups and their parents, or None.

    `root` is the folder used as "/", `cgroup` is the text of /proc/PID/cgroup, and `mountinfo` that
    of /proc/PID/mountinfo. Reads both versions of control groups, also if both are mounted. Missing
    or malformed files set no quota.
    """
    mounts = list(_mounts(mountinfo))
    quotas = [
        _quota(root / group.relative_to("/"), version)
        for version, path in _groups(cgroup)
        for group in _with_parents(path, [mount for mount in mounts if mount.version == version])
    ]
    return min((quota for quota in quotas if quota is not None), default=None)


def lower_priority(increment: int) -> None:
    """Raise the calling thread's niceness; the event loop's is 0.

    The event loop should not wait for a core that decodes, to reject a request or to send an
    answer. Only Linux has a niceness per thread. If a sandbox forbids the call, all threads have
    the same priority.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with _allowed("setpriority"):
            nice = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, nice + increment)


def cores_to_pin(threads: int) -> list[int | None]:
    """Return a core for each of `threads` busy threads, if there are exactly as many cores.

    Otherwise return None for each. After an interruption the kernel moves a thread, and sometimes
    leaves two of them on one core for milliseconds while another core is idle. If there are fewer
    busy threads than cores, or other processes share the cores, the kernel places them better.
    """
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    return [*cores] if len(cores) == threads else [None] * threads


def pin_to_core(core: int | None) -> None:
    """Run the calling thread on one core only; None changes nothing.

    If a sandbox forbids the call, the kernel places the thread.
    """
    if sys.platform == "linux" and core is not None:
        with _allowed("sched_setaffinity"):
            os.sched_setaffinity(0, {core})


def _with_parents(path: PurePosixPath, mounts: list[_Mount]) -> Iterator[PurePosixPath]:
    """Yield the folders of a group and of its parents, as far as they are mounted.

    If no mount contains the group, yield the mounts' roots: in a container the mount's root is its
    own group, while `path` may be the host's path.
    """
    shown = ".." not in path.parts  # a group above the namespace's root is not mounted
    inside = [mount for mount in mounts if shown and path.is_relative_to(mount.root)]
    for mount in inside or mounts:
        folder = mount.point / (path.relative_to(mount.root) if inside else PurePosixPath())
        yield from (f for f in (folder, *folder.parents) if f.is_relative_to(mount.point))


def _groups(cgroup: str) -> Iterator[tuple[int, PurePosixPath]]:
    """Yield (version, path) of the groups that may limit the CPU: lines `id:controllers:path`."""
    for line in cgroup.splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3 and fields[2].startswith("/"):
            if fields[:2] == ["0", ""]:
                yield 2, PurePosixPath(fields[2])
            elif "cpu" in fields[1].split(","):
                yield 1, PurePosixPath(fields[2])


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    """Yield the hierarchies: `id parent device root point options … - type source options`."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or not kind:
            continue
        root, point = (PurePosixPath(_plain(field)) for field in fields[3:5])
        if not point.is_absolute():
            continue
        if kind[0] == "cgroup2":
            yield _Mount(2, root, point)
        elif kind[0] == "cgroup" and "cpu" in kind[-1].split(","):
            yield _Mount(1, root, point)


def _quota(group: Path, version: int) -> float | None:
    """Return one group's quota in cores; None if it has none."""
    if version == 2:
        texts = [*_read(group / "cpu.max").split(), "", ""][:2]
    else:
        texts = [_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    try:
        quota, period = (int(text) for text in texts)
        return quota / period if quota > 0 and period > 0 else None  # version 1 writes -1
    except (ValueError, OverflowError):  # "max", or a missing file
        return None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text("ascii", "replace")
    except OSError:
        return ""


def _plain(field: str) -> str:
    return _ESCAPED.sub(lambda escaped: chr(int(escaped[1], 8)), field)


@contextmanager
def _allowed(call: str) -> Iterator[None]:
    """Log a denied system call and continue, because the call is optional."""
    try:
        yield
    except OSError as error:
        log.info("%s is not permitted (%s); continuing without it", call, error.strerror)
