"""Memory of the process. What is about its allocation works on Linux with glibc only."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # mallopt(3)
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25  # madvise(2)
_LARGE_BLOCK_BYTES = 32 << 20  # an image of 8 megapixels, in Pillow's four bytes each
_KEPT_BYTES = 64 << 20
_BLOCK_APART_BYTES = 1 << 20
_PEAK_BYTES = 32 << 20  # a JPEG of 3 megapixels
_QUIET_S = 10.0
_HUGE_PAGE = 2 << 20
_COLLECT_AFTER = 5_000  # containers more than there were; Python's own number is 700
_MAPS = Path("/proc/self/maps")


def collect_rarely() -> None:
    """Make Python's garbage collector leave out what exists now, and run rarely from now on.

    No request leaves garbage that needs it, while each run scans the objects of those in progress.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def give_back_large_blocks() -> None:
    """Make glibc return large blocks to the kernel when they are freed, also after a burst.

    Smaller blocks are kept for the next image, which would otherwise get its memory from the kernel
    page by page.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
        # Setting only the first one fixes the other at 128 kB: every image would return its memory
        # to the kernel, and the next one would request it again.
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


@contextlib.contextmanager
def blocks_apart() -> Iterator[None]:
    """Meanwhile, make glibc get blocks of a megabyte from the kernel, and each by itself.

    For the weights of a version: all their memory is returned when it is unloaded. In a heap they
    would leave holes, whose pages come back one by one as images are decoded.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, _BLOCK_APART_BYTES)
    try:
        yield
    finally:
        give_back_large_blocks()


def limit_arenas(most: int) -> None:
    """Make glibc use at most so many heaps for all threads, unless MALLOC_ARENA_MAX says how many.

    Otherwise it uses eight per core. What a version leaves is then spread over many of them, and
    memory grows over reloads. Call it before threads start.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, most)


def give_back_free_memory() -> None:
    """Make glibc return all free memory, including what it would keep for the next image.

    Takes milliseconds, in which other threads cannot allocate.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class TrimWhenQuiet:
    """Gives back the memory of large images after the last one; the next would use it again."""

    def __init__(
        self, quiet_s: float = _QUIET_S, trim: Callable[[], None] = give_back_free_memory
    ) -> None:
        """`trim` is called on a thread, `quiet_s` seconds after the last large image."""
        self._quiet_s = quiet_s
        self._trim = trim
        self._last = 0.0  # large image, on the event loop's clock
        self._is_set = False

    def note(self, peak_bytes: int) -> None:
        """Note an image whose decoding uses up to `peak_bytes`. On the event loop."""
        if peak_bytes < _PEAK_BYTES:
            return
        loop = asyncio.get_running_loop()
        self._last = loop.time()
        if not self._is_set:
            self._is_set = True
            loop.call_later(self._quiet_s, self._check)

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        left_s = self._last + self._quiet_s - loop.time()
        if left_s > 0:
            loop.call_later(left_s, self._check)
            return
        self._is_set = False
        loop.run_in_executor(None, self._trim)


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return how much memory this process can still get; None if that is unknown.

    The least of what the machine has and of what the limits of its control groups leave.
    """
    left = [_field(root / "proc/meminfo", "MemAvailable:", 1024)]
    left += [_left_in_group(folder) for folder in _control_groups(root)]
    known = [each for each in left if each is not None]
    return max(0, min(known)) if known else None


def _control_groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's memory groups and of their parents."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            top = mount if number == "0" else mount / "memory"
            inside = PurePosixPath(path).relative_to("/")
            # In a container the group may be mounted at the top, whatever its path is outside.
            yield from (top / parent for parent in (inside, *inside.parents))


def _left_in_group(folder: Path) -> int | None:
    """Return the limit of a group minus what is used and cannot be freed; None without a limit."""
    for limit, used, stat in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            left = int(_text(folder / limit)) - int(_text(folder / used))
        except ValueError:  # "max", or a missing file
            continue
        return left + (_field(folder / "memory.stat", stat, 1) or 0)
    return None


def _field(path: Path, name: str, unit: int) -> int | None:
    """Return the number after `name` in a file of lines, times `unit`."""
    for line in _text(path).splitlines():
        first, *rest = line.split()
        if first == name and rest:
            return int(rest[0]) * unit
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""


def use_huge_pages() -> None:
    """Move the memory allocated so far to pages of 2 MB: every batch reads all weights.

    Increases resident memory somewhat, because partly used pages become whole ones.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, length in _anonymous_memory():
            libc.madvise(start, length, _MADV_HUGEPAGE)
            # At once. Before Linux 6.1 this does nothing, and the kernel takes minutes.
            libc.madvise(start, length, _MADV_COLLAPSE)


def _anonymous_memory() -> Iterator[tuple[int, int]]:
    """Yield (start, length) of the whole huge pages in each writable mapping without a file."""
    for line in _MAPS.read_text("ascii").splitlines():
        addresses, permissions, _, _, inode, *name = line.split()
        if permissions != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue
        first, end = (int(address, 16) for address in addresses.split("-"))
        first = -(-first // _HUGE_PAGE) * _HUGE_PAGE
        if end - first >= _HUGE_PAGE:
            yield first, (end - first) // _HUGE_PAGE * _HUGE_PAGE
