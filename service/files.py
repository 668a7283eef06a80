"""Digests of files, bounded reads and atomic writes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_small(path: Path, most: int) -> bytes:
    """Return the content of a file of at most `most` bytes, such as a secret.

    It may be a link, but its target must be a regular file. Raises OSError, or ValueError with the
    reason.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # it could be a pipe
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path} is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise ValueError(f"{path} has more than {most:,} bytes")
    return content


def write_atomically(
    path: Path,
    content: bytes,
    temporary_folder: Path | None = None,
    like: os.stat_result | None = None,
) -> None:
    """Replace a file; after a crash it has the old content or the new one. Raises OSError.

    The content is written to a temporary file in the same folder, or in another one of the same
    file system, flushed to disk, and renamed. With `like` it gets that owner, if this user may give
    it, and those permissions.
    """
    folder = temporary_folder or path.parent
    temporary = folder / f".{path.name}.{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            if like is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), like.st_uid, like.st_gid)
                os.fchmod(file.fileno(), like.st_mode & 0o777)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        flush_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
