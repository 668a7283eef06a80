"""Cores and threads: how many cores this process may use, and where its threads run.

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
    """A mounted hierarchy of control groups that may hold CPU quotas."""

    version: int
    root: PurePosixPath  # the group that is mounted
    point: PurePosixPath


def usable_cores() -> int:
    """Return how many cores this process may use, by affinity and by its groups' quotas."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = quota_cores(Path("/"), _read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
    return whole_cores(cores or 1, quota)


def whole_cores(cores: int, quota: float | None) -> int:
    """Return the quota as a whole number, at least 1 and at most `cores`; None is no quota.

    The nearest number, a half upwards. One thread per started core would have a quota of 1.1 stop
    every thread, the event loop's included, for 45 of each 100 ms; one per full core would leave
    nearly half of 1.9 unused. Like this at most a quarter of the time is spent stopped (1.5, with
    2 threads), and at most half a core stays for the event loop.
    """
    return cores if quota is None else max(1, min(cores, math.floor(quota + 0.5)))


def quota_cores(root: Path, cgroup: str, mountinfo: str) -> float | None:
    """Return the smallest CPU quota, in cores, of a process's groups and those above them.

    `root` is what "/" is, `cgroup` the text of /proc/PID/cgroup and `mountinfo` that of
    /proc/PID/mountinfo. Reads both versions of control groups, mixed ones too; what is missing or
    malformed sets no quota. None if there is none.
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

    A request that is refused, or an answer that is ready, should not wait for a core that decodes.
    Only Linux has a niceness per thread. A sandbox may forbid it: then all threads are equal.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with _allowed("setpriority"):
            nice = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, nice + increment)


def cores_to_pin(threads: int) -> list[int | None]:
    """Return a core for each of so many busy threads if there are exactly as many, else None.

    The kernel moves a thread that was interrupted, and leaves two of them on one core for
    milliseconds while another is idle. If fewer threads than cores are busy, or the cores are
    shared with others, the kernel knows better than we do where to put them.
    """
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    return [*cores] if len(cores) == threads else [None] * threads


def pin_to_core(core: int | None) -> None:
    """Have the calling thread run on one core only; None leaves it where it is.

    A sandbox may forbid it: then the kernel places the thread.
    """
    if sys.platform == "linux" and core is not None:
        with _allowed("sched_setaffinity"):
            os.sched_setaffinity(0, {core})


def _with_parents(path: PurePosixPath, mounts: list[_Mount]) -> Iterator[PurePosixPath]:
    """Yield the folders of a group and of those above it, as far as they are mounted.

    Without a mount that shows the group (a container sees its own as the mount's root, by whatever
    path the host knows it), the mount's root is the best there is.
    """
    shown = ".." not in path.parts  # a group above the namespace's root is not
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
    except (ValueError, OverflowError):  # "max", or not there
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
    """Log a system call that is denied, and go on: it was a nicety."""
    try:
        yield
    except OSError as error:
        log.info("%s is not permitted here (%s): threads run without it", call, error.strerror)
