"""What the process of the engine shows to the front ends: how busy it is, in shared memory.

One process writes, the others read. A value may be a moment older than its neighbour; admission
predicts anyway.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from tidegate.service.batching.engine_load import Published
from tidegate.service.batching.lanes import Lane
from tidegate.service.types import Priority

LANES = 512  # loaded versions; the setting allows 256, and one may be loading
FRONTS = 256
_SLOTS = 256
_FREE, _USUAL = 0, _SLOTS
_WAITING = 2 * _SLOTS
_READ = _WAITING + 2 * LANES
_FLOATS = _READ + FRONTS


class Board:
    """The engine's side."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("tidegate-board", os.MFD_CLOEXEC)
        os.posix_fallocate(self.descriptor, 0, 8 * _FLOATS)
        self._values = np.frombuffer(mmap.mmap(self.descriptor, 8 * _FLOATS), np.float64)

    def publish(self, load: Published, places: Mapping[Lane, int]) -> None:
        """Write what runs and waits; `places` are the numbers of the lanes."""
        values = self._values
        values[_FREE : _FREE + len(load.free_at)] = load.free_at
        values[_USUAL : _USUAL + len(load.free_at)] = load.usually_free_at
        for lane, (interactive, bulk) in load.waiting.items():
            if (place := places.get(lane)) is not None:
                at = _WAITING + 2 * place
                values[at : at + 2] = interactive, interactive + bulk

    def count_read(self, front: int, images: int) -> None:
        """Write how many images of a front end have been taken so far."""
        self._values[_READ + front] = images


class BoardView:
    """A front end's side; it is what `Admission` asks about the engine."""

    def __init__(
        self,
        descriptor: int,
        front: int,
        slots: int,
        places: Mapping[Lane, int],
        sent: Callable[[], int],
    ) -> None:
        """`places` are the numbers of the lanes; `sent` returns how many images were sent."""
        shared = mmap.mmap(descriptor, 8 * _FLOATS, prot=mmap.PROT_READ)
        self._values: NDArray[np.float64] = np.frombuffer(shared, np.float64)
        self._front = front
        self._slots = slots
        self._places = places
        self._sent = sent

    def free_in_s(self, now: float, *, typical: bool) -> list[float]:
        """Return the seconds until each slot is free; 0 for an idle slot."""
        start = _USUAL if typical else _FREE
        return [max(0.0, at - now) for at in self._values[start : start + self._slots].tolist()]

    def ahead(self, lane: Lane, priority: Priority) -> int:
        """Return how many images of a lane wait for the engine, in this class or a higher one.

        Those that were sent and are not yet on the board count for every lane.
        """
        waiting = int(self._values[_WAITING + 2 * self._places[lane] + priority])
        unseen = self._sent() - int(self._values[_READ + self._front])
        return waiting + max(0, unseen)
