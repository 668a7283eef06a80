"""The review folder on disk: which files belong to the store, and how much space they use.

    ROOT/<day>/<24 hex>.json         a sidecar, with the format's mark and its image's name
    ROOT/<day>/<24 hex>.<format>     the image, written after its sidecar and deleted before it
    ROOT/<day>/.<24 hex>.<…>.part    either of them while it is written, under a file lock

No other file is ever deleted, and below ROOT no symbolic link is followed. Several processes may
share a folder. Not thread-safe: the owner calls it from one thread.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import stat
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tidegate.service.review import sidecar

log = logging.getLogger(__name__)

_BLOCK = 4096  # bytes; the smallest allocation of a file
_LABEL_BYTES = 32  # added to a sidecar by a label
_PART_AGE_S = 3600.0  # if files cannot be locked, an older part is considered abandoned
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SIDECAR = re.compile(rf"{sidecar.STEM}\.json")
_PART = re.compile(rf"\.{sidecar.STEM}\.(?:json|{sidecar.IMAGE_FORMATS})\.part")


class TooLarge(ValueError):
    """An image is larger than the limit of the whole folder."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One kept image and its sidecar."""

    day: str
    file: str

    @property
    def sidecar(self) -> str:
        """The sidecar's file name."""
        return f"{self.file.partition('.')[0]}.json"


class ReviewFolder:
    """Writes images, deletes the oldest, and tracks the disk space they use."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self._max_bytes = max_bytes
        self._kept: deque[tuple[Entry, int]] = deque()  # the oldest first; bytes on disk
        self._kept_bytes = 0
        self._part_bytes = 0  # of files that other processes are writing
        self._folders: dict[str, int] = {}  # day → bytes on disk; "" is the root

    @property
    def used_bytes(self) -> int:
        """Bytes on disk of the store's own files and folders."""
        return self._kept_bytes + self._part_bytes + sum(self._folders.values())

    def scan(self) -> None:
        """Count the files of this and other processes, and remove abandoned parts.

        Raises OSError if the folder cannot be listed.
        """
        known = {(entry.day, entry.sidecar): entry for entry, _ in self._kept}
        self._folders, self._part_bytes = {"": allocated(self.root.stat())}, 0
        found: list[tuple[int, Entry, int]] = []
        strangers: list[str] = []
        for day in _days(self.root):
            with suppress(FileNotFoundError), self._open_day(day) as folder:
                names = os.listdir(folder)
                parts = [name for name in names if _PART.fullmatch(name)]
                self._part_bytes += sum(_remove_orphan(name, folder) for name in parts)
                for name in filter(_SIDECAR.fullmatch, names):
                    entry = known.get((day, name)) or _own(day, name, folder)
                    if entry is None:
                        strangers.append(f"{day}/{name}")
                    else:
                        found.append(_measured(entry, folder))
                        self._folders[day] = allocated(os.fstat(folder))
        found.sort(key=lambda one: (one[0], one[1].day, one[1].file))
        self._kept = deque((entry, size) for _, entry, size in found)
        self._kept_bytes = sum(size for *_, size in found)
        if strangers and not known:
            _report(strangers)
        self._make_room(0)

    def write(self, entry: Entry, content: bytes, image: bytes) -> None:
        """Write an image and its sidecar; delete the oldest images if their space is needed.

        Raises TooLarge or OSError; then no part of the image remains.
        """
        need = needed(content, image)
        if need + self._folders.get("", _BLOCK) > self._max_bytes:
            raise TooLarge(f"an image of {len(image)} bytes exceeds the limit of the whole folder")
        self._make_room(need)
        if self.used_bytes + need > self._max_bytes:
            raise OSError(errno.EBUSY, "Files that other processes are writing leave no space")
        try:
            size = self._write(entry, content, image)
        except (FileNotFoundError, FileExistsError):  # another process deleted files just now
            size = self._write(entry, content, image)
        self._kept.append((entry, size))
        self._kept_bytes += size

    def relabel(self, entry: Entry, content: bytes) -> None:
        """Replace a sidecar, unless its image has been deleted. Raises OSError."""
        self._make_room(_rounded(len(content)))
        with suppress(FileNotFoundError), self._open_day(entry.day) as folder:
            if _own(entry.day, entry.sidecar, folder) == entry:
                _put(entry.sidecar, content, folder)

    def drop(self, need: int) -> bool:
        """Delete the oldest images until `need` bytes are freed; return whether there were any.

        Raises OSError.
        """
        until = self._kept_bytes - need
        had = bool(self._kept)
        while self._kept and self._kept_bytes > until:
            self._drop_oldest()
        return had

    def _make_room(self, need: int) -> None:
        while self._kept and self.used_bytes + need > self._max_bytes:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        entry, size = self._kept[0]
        with suppress(FileNotFoundError), self._open_day(entry.day) as folder:
            # Read again, because the file may belong to another program now.
            if _own(entry.day, entry.sidecar, folder) == entry:
                for name in (entry.file, entry.sidecar):
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)
        self._kept.popleft()
        self._kept_bytes -= size
        if not self._kept or self._kept[0][0].day != entry.day:
            self._remove_day(entry.day)

    def _remove_day(self, day: str) -> None:
        with suppress(OSError):  # not empty
            os.rmdir(self.root / day)
            self._folders.pop(day, None)

    def _write(self, entry: Entry, content: bytes, image: bytes) -> int:
        (self.root / entry.day).mkdir(parents=True, exist_ok=True)
        with self._open_day(entry.day) as folder:
            size = _put(entry.sidecar, content, folder, spare=_LABEL_BYTES)
            try:
                size += _put(entry.file, image, folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(entry.sidecar, dir_fd=folder)
                raise
            self._folders[entry.day] = allocated(os.fstat(folder))
        return size

    @contextmanager
    def _open_day(self, day: str) -> Iterator[int]:
        folder = open_day(self.root, day)
        try:
            yield folder
        finally:
            os.close(folder)


def open_day(root: Path, day: str) -> int:
    """Return a descriptor of a day's folder. Raises FileNotFoundError if it is not a folder."""
    path = root / day
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.ELOOP}:
            raise FileNotFoundError(errno.ENOENT, "Not a folder", str(path)) from error
        raise


def needed(content: bytes, image: bytes) -> int:
    """Return an upper limit of the bytes on disk for an image, including its folders' growth."""
    return _rounded(len(content) + _LABEL_BYTES) + _rounded(len(image)) + 2 * _BLOCK


def allocated(status: os.stat_result) -> int:
    """Return the bytes that a file uses on disk.

    Some file systems count blocks only after a flush, so the size is considered as well.
    """
    return max(status.st_blocks * 512, _rounded(status.st_size))


def _rounded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _days(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(
            entry.name
            for entry in entries
            if _DAY.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        )


def _report(strangers: list[str]) -> None:
    log.warning(
        "%d files in the review folder, such as %s, are not sidecars of this format: ignoring them",
        len(strangers),
        strangers[0],
    )


def _own(day: str, name: str, folder: int) -> Entry | None:
    """Return the entry of a sidecar, or None if the file does not belong to the store."""
    try:
        entry = Entry(day, sidecar.read(sidecar.OwnSidecar, name, folder).file)
    except (OSError, ValueError):
        return None
    return entry if entry.sidecar == name else None


def _measured(entry: Entry, folder: int) -> tuple[int, Entry, int]:
    written_at, size = 0, 0
    for name in (entry.sidecar, entry.file):  # image last: a label changes the sidecar's mtime
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            written_at, size = status.st_mtime_ns, size + allocated(status)
    return written_at, entry, size


def _put(name: str, content: bytes, folder: int, spare: int = 0) -> int:
    """Write a file atomically; return its bytes on disk if it were `spare` bytes longer."""
    part = f".{name}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(part, flags, 0o666, dir_fd=folder)
    except FileExistsError:
        _remove_orphan(part, folder)  # so that another attempt can succeed
        raise
    try:
        with open(descriptor, "wb") as file:
            with suppress(OSError):  # without locks, the age of a part decides
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(content)
            file.flush()
            size = max(allocated(os.fstat(descriptor)), _rounded(len(content) + spare))
            os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise
    return size


def _remove_orphan(name: str, folder: int) -> int:
    """Remove a part that has no writer, and return 0; else return its bytes."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return 0
        if _has_writer(name, folder, status):
            return allocated(status)
        os.unlink(name, dir_fd=folder)
    except OSError as error:  # already removed, or no permission
        log.debug("cannot remove %s: %s", name, error)
    return 0


def _has_writer(name: str, folder: int, status: os.stat_result) -> bool:
    # Opened for writing, because network file systems require it for an exclusive lock.
    descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return time.time() - status.st_mtime < _PART_AGE_S
    finally:
        os.close(descriptor)
    return False
