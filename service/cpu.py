"""How many cores this process may use: its affinity, and the CPU quotas of its control groups."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
