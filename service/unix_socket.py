"""Listen on a unix socket, for a proxy on the same host."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

_BACKLOG = 2048
_MAX_PATH_BYTES = 107  # sockaddr_un has 108, with the final zero


def listen_unix(path: Path, mode: int) -> socket.socket:
    """Return a socket that listens at `path`, with these permissions from the start.

    A socket of a process that has ended is replaced. Raises OSError if another process listens
    there, if something else is there, or if the path is too long.
    """
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, f"more than {_MAX_PATH_BYTES} bytes")
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(os.fspath(path))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def remove_unix(listener: socket.socket) -> None:
    """Remove the path of a unix socket, so that new clients are refused; others are no path."""
    if listener.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            Path(listener.getsockname()).unlink()


def _remove_stale(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise OSError(errno.EEXIST, "there is a file that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another process listens there")
