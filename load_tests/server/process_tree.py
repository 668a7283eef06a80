"""A process and its descendants, by PID in Linux's /proc: list, pause, resume, kill.

Descendants can be listed only while an ancestor lives, which `load_tests.server.subreaper` ensures.
"""

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

_SETTLE_S = 0.1


def descendants(pid: int) -> list[int]:
    """Return the children, grandchildren and so on of `pid`, without itself, parents first."""
    found: list[int] = []
    level = _children(pid)
    while level:
        found += level
        level = [grandchild for child in level for grandchild in _children(child)]
    return found


def pause(pid: int) -> None:
    """Stop every descendant of `pid`, so that it uses no CPU while others are measured.

    Parents first, with time for their children to answer pending requests: a supervisor's health
    check must not have timed out when it resumes.
    """
    tree = descendants(pid)
    _signal(tree[:1], signal.SIGSTOP)
    time.sleep(_SETTLE_S)  # there is no event for an answer of a child
    _signal(tree[1:], signal.SIGSTOP)
    _signal(descendants(pid), signal.SIGSTOP)  # processes started in the meantime


def resume(pid: int) -> None:
    """Resume every descendant of `pid`, children first (see `pause`)."""
    tree = descendants(pid)
    _signal(reversed(tree[1:]), signal.SIGCONT)
    time.sleep(_SETTLE_S)  # there is no event for a child that can answer again
    _signal(tree[:1], signal.SIGCONT)


def kill(pid: int) -> None:
    """Kill every descendant of `pid`, stopped or not."""
    while living := alive(descendants(pid)):
        _signal(living, signal.SIGKILL)
        time.sleep(0.01)  # until the kernel has ended them and reparented their children


def alive(pids: Iterable[int]) -> list[int]:
    """Return those that still run: neither gone nor zombies, which only wait to be reaped."""
    return [pid for pid in pids if _state(pid) not in ("", "Z", "X")]


def resident_mb(pids: Iterable[int]) -> float:
    """Return the sum of their memory; shared memory counts more than once."""
    page_mb = os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    statm = (_read(pid, "statm").split() for pid in pids)
    return sum(int(fields[1]) * page_mb for fields in statm if fields)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []
    for task in tasks:
        try:
            children += map(int, (task / "children").read_text(encoding="ascii").split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread ended in the meantime
    return children


def _state(pid: int) -> str:
    """Return R, S, D, T, Z …, or an empty string if the process is gone."""
    # The command name, in parentheses, may contain any text: the state follows the last one.
    return _read(pid, "stat").rpartition(")")[2][1:2]


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        if pid <= 0:
            continue  # 0 is our own process group
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
