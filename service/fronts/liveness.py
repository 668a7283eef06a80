"""Which front ends take connections, and which hang: silent, or starting for too long."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from tidegate.service.fronts.worker import Worker

log = logging.getLogger(__name__)

SILENT_S = 1.0  # a front end that shows no life for so long gets no connections
DEAD_S = 5.0  # and is ended after so long
START_S = 60.0  # from its start until it is up; mostly the import of the service
_PAUSE_S = 0.5  # between two checks; after a longer one this process itself was stopped


class Liveness:
    """Judges front ends by their signs of life; time in which one waits for a core is left out."""

    def __init__(self, alive_at: NDArray[np.float64]) -> None:
        """`alive_at` is when each showed life, by its index; front ends write it."""
        self._alive_at = alive_at
        self._checked_at = math.inf

    def show(self, index: int, now: float) -> None:
        """Count a front end that is started as alive."""
        self._alive_at[index] = now

    def end_hanging(self, workers: Collection[Worker], now: float) -> None:
        """End those that hang. Call it regularly."""
        if self._was_stopped(now):  # and they perhaps too
            for worker in workers:
                worker.started_at = now
                self.show(worker.index, now)
        for worker in workers:
            if not worker.is_ended and (fault := self._fault(worker, now)):
                log.error("front end %d %s and is ended", worker.index, fault)
                worker.kill()

    def taking(self, workers: Iterable[Worker], now: float) -> list[Worker]:
        """Return the front ends that take connections."""
        up = [worker for worker in workers if worker.is_up]
        alive = [one for one in up if now - self._alive_at[one.index] < SILENT_S]
        return alive or up

    def _was_stopped(self, now: float) -> bool:
        """Return whether this process itself did not run since the last check."""
        before, self._checked_at = self._checked_at, now
        return now - before > _PAUSE_S

    def _fault(self, worker: Worker, now: float) -> str:
        if worker.is_starting and worker.silence.seconds(worker.started_at, now) > START_S:
            return f"has not started within {START_S:g} s"
        alive_at = float(self._alive_at[worker.index])
        if worker.is_up and worker.silence.seconds(alive_at, now) > DEAD_S:
            return f"shows no life for {DEAD_S:g} s"
        return ""
