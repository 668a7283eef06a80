"""How the process keeps and lays out its memory. Linux with glibc; elsewhere nothing happens."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25  # madvise(2)
_LARGE_BLOCK_BYTES = 32 << 20  # an image of 8 megapixels, in Pillow's four bytes each
_KEPT_BYTES = 64 << 20
_HUGE_PAGE = 2 << 20
_MAPS = Path("/proc/self/maps")


def give_back_large_blocks() -> None:
    """Have glibc return large blocks when they are freed, however many a burst of images took.

    Smaller ones are kept for the next image, which would else get its memory from the kernel page
    by page.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
        # Setting the one fixes the other at 128 kB, and every image would give back and ask again.
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def use_huge_pages() -> None:
    """Put what is allocated now on pages of 2 MB: a network reads all its weights for every batch.

    Costs some resident memory, as pages that were used in part are then whole.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, length in _anonymous_memory():
            libc.madvise(start, length, _MADV_HUGEPAGE)
            libc.madvise(start, length, _MADV_COLLAPSE)  # at once; kernels before 6.1 take minutes


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
