"""One job at a time writes a result: a lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tidegate.service.errors import JobRefused

_OWNER_BYTES = 200
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of some network file systems


@contextmanager
def only_job(out: Path) -> Iterator[None]:
    """Hold the lock of a result, the file `.NAME.lock` next to it, which is removed at the end.

    On a file system without locks nothing is locked. Raises JobRefused if another job holds it, or
    if the folder does not exist.
    """
    descriptor = _locked(out, out.with_name(f".{out.name}.lock"))
    try:
        yield
    finally:
        # Removed while it is locked: who opens it later makes a new one.
        with suppress(OSError):
            out.with_name(f".{out.name}.lock").unlink()
        os.close(descriptor)


def _locked(out: Path, path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise JobRefused(f"{out.parent} does not exist, or is not a folder.") from error
        try:
            _lock(descriptor, out)
        except BaseException:
            os.close(descriptor)
            raise
        if _is_at(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            return descriptor
        os.close(descriptor)  # its owner removed it before it was locked here


def _lock(descriptor: int, out: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, _OWNER_BYTES, 0).decode("utf-8", "replace")
        raise JobRefused(
            f"Another job ({owner or 'just started'}) writes {out}: wait until it ends, or give "
            "another --out."
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
