"""The images that are being decoded and those that wait for it. Pure: no clock, no threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tidegate.service.batching.policy import Pace, Waiting
from tidegate.service.batching.queue import FairQueue
from tidegate.service.types import Priority

# Factor over the usual time of the images ahead. That is a median, and where decode times vary by
# 0.8 of their mean, the mean is 1.28 medians; the rest is a margin.
AHEAD = 1.4
_SOME_S = 1e-9  # a wait is never 0 while all decoders are busy, even if all are overdue


@dataclass(slots=True, eq=False)
class Job(Waiting):
    """One image to decode, and the callback for the result."""

    work: Callable[[], Any]
    done: Callable[[Any, float], None]
    typical_s: float = 0.0  # how long decoding it usually takes
    started: float | None = None  # on the decoders' clock; None until one starts it


class DecodeQueue:
    """Jobs for a fixed number of decoders, in the policy's order."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._waiting: FairQueue[Job] = FairQueue()
        self._running: set[Job] = set()

    @property
    def load(self) -> int:
        """Return how many images are decoding or wait, including those withdrawn while decoding."""
        return len(self._running) + len(self._waiting)

    def add(self, job: Job) -> bool:
        """Add a job; return True if a decoder is idle, which then runs it."""
        if len(self._running) < self.workers:
            self._running.add(job)
            return True
        self._waiting.insert(job)
        return False

    def finish(self, job: Job, now: float, *, is_closing: bool = False) -> Job | None:
        """Remove a job that has run; return the next one for its decoder, unless it closes."""
        self._running.discard(job)
        if is_closing or not len(self._waiting):
            return None
        chosen = self._waiting.preferred(1)
        if not self._waiting.may_go_first(chosen, lambda: self._pace(now)):
            chosen = self._waiting.first(1)
        following = next(self._waiting.take(chosen))
        self._running.add(following)
        return following

    def withdraw(self, job: Job) -> None:
        """Remove a job that has not started. Raises KeyError if it runs, or has run."""
        self._waiting.remove(job)

    def free_in_s(
        self, priority: Priority, deadline: float, now: float, *, typical: bool = False
    ) -> float:
        """Return the seconds until a decoder would start an arrival of this class and deadline.

        Only the jobs that run before it count; unless `typical`, each with a margin.
        """
        if len(self._running) < self.workers:
            return 0.0
        factor = 1.0 if typical else AHEAD
        ahead_s = sum(job.typical_s for job in self._waiting.before(priority, deadline)) * factor
        for job in self._running:
            elapsed_s = now - job.started if job.started is not None else 0.0
            ahead_s += max(0.0, job.typical_s * factor - elapsed_s)
        return max(ahead_s / self.workers, _SOME_S)

    def delays(self, priority: Priority, deadline: float, now: float, typical_s: float) -> bool:
        """Return whether an arrival makes a job late that waits behind it and was in time."""
        if not len(self._waiting) or not typical_s:
            return False
        return self._waiting.delays(priority, deadline, lambda: self._pace(now, typical=True))

    def _pace(self, now: float, *, typical: bool = False) -> Pace:
        """Return how fast the waiting jobs are answered, if their own work takes the longest."""
        factor = 1.0 if typical else AHEAD
        waiting = self._waiting.first(len(self._waiting))
        each_s = factor * sum(job.typical_s for job in waiting) / len(waiting) / self.workers
        left_s = 0.0
        for job in self._running:
            elapsed_s = now - job.started if job.started is not None else 0.0
            left_s += max(0.0, job.typical_s * factor - elapsed_s)
        own_s = max(job.work_s for job in waiting)
        return Pace(now + left_s / self.workers, each_s, own_s)
