"""Decoder threads and their queue: by class, then deadline. Used on the event loop.

A place is held until its thread has finished the image, also if the request has left meanwhile, so
admission counts work whose result nobody needs. A request that leaves before its turn leaves
nothing behind, neither its bytes nor a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from tidegate.service.batching.policy import Waiting
from tidegate.service.batching.queue import DeadlineQueue
from tidegate.service.cpu import lower_priority
from tidegate.service.errors import TidegateError, without_frames
from tidegate.service.owned_thread import start_owned
from tidegate.service.types import Priority

log = logging.getLogger(__name__)

T = TypeVar("T")
# Behind the engine's threads: a decoded image is of no use until an engine can run it.
NICE = 4


@dataclass(slots=True, eq=False)
class Job(Waiting):
    """One image to decode, and what to call with the result."""

    work: Callable[[], Any]
    done: Callable[[Any, float], None]
    predicted_s: float = 0.0
    started: float | None = None  # on time.monotonic, once a thread has it


class Decoders:
    """A bounded pool of threads with a queue in the policy's order."""

    def __init__(
        self,
        workers: int,
        on_death: Callable[[str], object],
        *,
        name: str = "decode",
        nice: int = NICE,
    ) -> None:
        """Start `workers` threads. `on_death` is called if one of them ends unasked."""
        self.workers = workers
        self._nice = nice
        self._loop = asyncio.get_running_loop()
        self._waiting: DeadlineQueue[Job] = DeadlineQueue()
        self._running: set[Job] = set()
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = [
            start_owned(self._work, f"{name}-{index}", on_death) for index in range(workers)
        ]

    @property
    def load(self) -> int:
        """Return how many images are being decoded or wait for it, wanted or not."""
        return len(self._running) + len(self._waiting)

    def free_in_s(self, priority: Priority, deadline: float) -> float:
        """Return when a thread would take up an arrival of this class and deadline."""
        if len(self._running) < self.workers:
            return 0.0
        now = time.monotonic()
        ahead_s = sum(job.predicted_s for job in self._waiting.before(priority, deadline))
        for job in self._running:
            elapsed_s = now - job.started if job.started is not None else 0.0
            ahead_s += max(0.0, job.predicted_s - elapsed_s)
        return max(ahead_s / self.workers, 1e-9)  # busy is not free, even if it is overdue

    def start(
        self,
        request: Waiting,
        work: Callable[[], T],
        done: Callable[[T | Exception, float], None],
        predicted_s: float = 0.0,
    ) -> Job:
        """Run `work` on a thread when it is this request's turn.

        `done` is then called on the loop with the result, or the exception, and the seconds taken.
        """
        job = Job(request.priority, request.deadline, request.arrival, work, done, predicted_s)
        if len(self._running) < self.workers:
            self._give(job)
        else:
            self._waiting.insert(job)
        return job

    def withdraw(self, job: Job) -> None:
        """Forget a job whose turn has not come; one that runs, runs on."""
        if job not in self._running:
            self._waiting.remove(job)

    def close(self) -> None:
        """Start nothing new; threads end after what they do."""
        for _ in self._threads:
            self._inbox.put(None)

    def _give(self, job: Job) -> None:
        self._running.add(job)
        self._inbox.put(job)

    def _work(self) -> None:
        lower_priority(self._nice)
        while (job := self._inbox.get()) is not None:
            job.started = time.monotonic()
            try:
                result = job.work()
            except Exception as error:  # noqa: BLE001 - whatever it raises is the request's
                result = kept(error)
            elapsed = time.monotonic() - job.started
            with contextlib.suppress(RuntimeError):  # the loop has closed: the process is ending
                self._loop.call_soon_threadsafe(partial(self._finish, job, result, elapsed))
            del job, result  # until the next image, this frame would keep this one's pixels

    def _finish(self, job: Job, result: Any, elapsed_s: float) -> None:
        self._running.discard(job)
        for following in self._waiting.take():
            self._give(following)
            break
        job.done(result, elapsed_s)


def kept(error: Exception) -> Exception:
    """Return a decoder's error without its frames; log the traceback of one that is a bug."""
    if not isinstance(error, TidegateError):
        log.error("unexpected error while decoding", exc_info=error)
    return without_frames(error)
