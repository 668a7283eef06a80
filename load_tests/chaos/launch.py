"""Start a command under conditions: `python -m load_tests.chaos.launch CONDITION… -- COMMAND…`.

`nofile=N` limits descriptors, `stderr=stalled` makes stderr a pipe that is never read,
`stderr=closed` closes it, and `deny=NAME,NAME` denies system calls (x86-64). `full-disk=FOLDER`
mounts a tiny file system that only this command sees, and `meminfo=FILE` puts a file in the place
of /proc/meminfo, as lxcfs does; both need root.
"""

import ctypes
import errno
import os
import resource
import struct
import sys
from pathlib import Path

SYSTEM_CALLS = {"setpriority": 141, "sched_setaffinity": 203}
DISK_BYTES = 64 << 10
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2  # linux/prctl.h
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000  # linux/seccomp.h
_NEW_MOUNTS, _PRIVATE = 0x0002_0000, (1 << 18) | (1 << 14)  # recursive and private
_BIND = 1 << 12


def main() -> None:
    """Apply the conditions and execute the command."""
    at = sys.argv.index("--")
    for condition in sys.argv[1:at]:
        name, _, value = condition.partition("=")
        _CONDITIONS[name](value)
    os.execvp(sys.argv[at + 1], sys.argv[at + 1 :])  # noqa: S606 - the caller's own command


def deny(names: str) -> None:
    """Make these system calls fail with EPERM, as a sandbox does."""
    steps = [(_LOAD, 0, 0, 0)]
    for name in names.split(","):
        steps.append((_JUMP_IF_EQUAL, 0, 1, SYSTEM_CALLS[name]))
        steps.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
    steps.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HP", len(steps), ctypes.addressof(code))
    _prctl(_NO_NEW_PRIVILEGES, 1)
    _prctl(_SET_SECCOMP, _FILTER, ctypes.create_string_buffer(program))


def full_disk(folder: str) -> None:
    """Mount a file system of DISK_BYTES over `folder`."""
    Path(folder).mkdir(exist_ok=True)
    _mount(b"none", folder, b"tmpfs", 0, b"size=%d" % DISK_BYTES)


def meminfo(file: str) -> None:
    """Show `file` as /proc/meminfo."""
    _mount(os.fsencode(file), "/proc/meminfo", None, _BIND, None)


def limit_descriptors(number: str) -> None:
    """Limit the number of open descriptors."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(number), int(number)))


def stderr(state: str) -> None:
    """Close stderr, or replace it by a pipe that is not read."""
    if state == "closed":
        os.close(2)
        return
    unread, ours = os.pipe()
    os.set_inheritable(unread, True)  # kept open, because otherwise writing would fail immediately
    os.dup2(ours, 2)


def _mount(what: bytes, where: str, kind: bytes | None, flags: int, options: bytes | None) -> None:
    """Mount something that only this process and its children see."""
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        libc.unshare(_NEW_MOUNTS)
        or libc.mount(b"none", b"/", None, _PRIVATE, None)
        or libc.mount(what, os.fsencode(where), kind, flags, options)
    ):
        raise OSError(ctypes.get_errno(), f"mount on {where}")


def _prctl(option: int, value: int, pointer: object = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, pointer, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


_CONDITIONS = {
    "deny": deny,
    "full-disk": full_disk,
    "meminfo": meminfo,
    "nofile": limit_descriptors,
    "stderr": stderr,
}

if __name__ == "__main__":
    main()
