"""What front ends and the process of the engine write together: signs of life, and quotas.

No lock: each number is written in one step. If two processes count an image of the same client
within the same microsecond, one of the two may not be counted; how many images are in progress has
a row per process, and two processes may each let the last one in.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np

_SETS, _WAYS = 2048, 8  # a client is in one of eight places: 16,384 clients


class SharedTable:
    """The memory, as one process sees it. It is that process's `QuotaTable`."""

    def __init__(self, descriptor: int, processes: int, own: int) -> None:
        """Map the memory behind `descriptor` for so many processes, of which this is `own`."""
        self.descriptor = descriptor
        memory = mmap.mmap(descriptor, _bytes(processes))
        clients = _SETS * _WAYS
        self.alive_at = np.frombuffer(memory, np.float64, processes)  # on time.monotonic()
        at = self.alive_at.nbytes
        self._ids = np.frombuffer(memory, np.uint64, clients, at).reshape(_SETS, _WAYS)
        at += self._ids.nbytes
        self._full_at = np.frombuffer(memory, np.float64, clients, at).reshape(_SETS, _WAYS)
        at += self._full_at.nbytes
        running = np.frombuffer(memory, np.int32, processes * clients, at)
        self._running = running.reshape(processes, _SETS, _WAYS)
        self._own = own

    @classmethod
    def create(cls, processes: int) -> SharedTable:
        """Return a new table, as its last process sees it. Raises OSError."""
        descriptor = os.memfd_create("tidegate-shared", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(descriptor, 0, _bytes(processes))
            return cls(descriptor, processes, processes - 1)
        except BaseException:
            os.close(descriptor)
            raise

    def forget(self, process: int) -> None:
        """Take back what a process that has ended had in progress."""
        self._running[process] = 0

    def full_at(self, client: str) -> float:
        """Return when a client's quota is full again; 0 for a client that is not known."""
        return float(self._full_at[self._place(client)])

    def set_full_at(self, client: str, at: float) -> None:
        """Remember when a client's quota is full again."""
        self._full_at[self._place(client)] = at

    def running(self, client: str) -> int:
        """Return how many images of a client are in progress, in all processes."""
        row, way = self._place(client)
        return int(self._running[:, row, way].sum())

    @contextmanager
    def run(self, client: str, images: int) -> Iterator[None]:
        """Count images as in progress."""
        place = (self._own, *self._place(client))
        self._running[place] += images
        try:
            yield
        finally:
            self._running[place] -= images

    def _place(self, client: str) -> tuple[int, int]:
        """Return where a client is; a new one replaces the one whose quota is full for longest."""
        number = _number(client)
        row = number % _SETS
        ids = self._ids[row].tolist()
        if number in ids:
            return row, ids.index(number)
        busy = self._running[:, row].any(axis=0)
        way = int(np.where(busy, np.inf, self._full_at[row]).argmin())
        self._full_at[row, way], self._ids[row, way] = 0.0, number
        return row, way


@lru_cache(maxsize=4096)
def _number(client: str) -> int:
    """Return the same number in every process; 0 is no client's."""
    digest = hashlib.blake2b(client.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def _bytes(processes: int) -> int:
    return processes * (8 + 4 * _SETS * _WAYS) + 16 * _SETS * _WAYS
