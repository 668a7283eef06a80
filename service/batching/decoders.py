"""Decoder threads and their queue, ordered by class, then deadline.

A thread that finishes an image takes the next one itself, so that it does not wait for a busy event
loop in between; the results are handed over on the loop. A thread counts as busy until it has
finished its image, even if the request was withdrawn in the meantime. A request that is withdrawn
before its turn frees its job and its bytes at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from tidegate.service.batching.decode_queue import DecodeQueue, Job
from tidegate.service.batching.policy import Waiting
from tidegate.service.cpu import lower_priority
from tidegate.service.errors import TidegateError, without_frames
from tidegate.service.owned_thread import start_owned
from tidegate.service.types import Priority

log = logging.getLogger(__name__)

T = TypeVar("T")
# Lower priority than the engine's threads: a decoded image has to wait for an engine anyway.
NICE = 4


class Decoders:
    """A fixed number of threads with a queue in the policy's order."""

    def __init__(
        self,
        workers: int,
        on_death: Callable[[str], object],
        *,
        name: str = "decode",
        nice: int = NICE,
    ) -> None:
        """Start `workers` threads. `on_death` is called if one of them ends unexpectedly."""
        self.workers = workers
        self._nice = nice
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()  # guards the next two
        self._queue = DecodeQueue(workers)
        self._closed = False
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = [
            start_owned(self._work, f"{name}-{index}", on_death) for index in range(workers)
        ]

    @property
    def load(self) -> int:
        """Return how many images are decoding or wait, including those withdrawn while decoding."""
        with self._lock:
            return self._queue.load

    def free_in_s(self, priority: Priority, deadline: float, *, typical: bool = False) -> float:
        """Return the seconds until a thread would start an arrival; see `DecodeQueue`."""
        with self._lock:
            return self._queue.free_in_s(priority, deadline, time.monotonic(), typical=typical)

    def delays(self, priority: Priority, deadline: float, typical_s: float) -> bool:
        """Return whether an arrival makes a job late that waits; see `DecodeQueue`."""
        with self._lock:
            return self._queue.delays(priority, deadline, time.monotonic(), typical_s)

    def start(
        self,
        request: Waiting,
        work: Callable[[], T],
        done: Callable[[T | Exception, float], None],
        typical_s: float = 0.0,
    ) -> Job:
        """Queue `work` for a thread.

        `done` is called on the loop with the result, or the exception, and the seconds it took;
        `typical_s` is how long that usually is.
        """
        job = Job(
            request.priority,
            request.deadline,
            request.arrival,
            work,
            done,
            typical_s,
            haste=request.haste,
            turn=request.turn,
            work_s=request.work_s,
        )
        with self._lock:
            if self._queue.add(job):
                self._inbox.put(job)
        return job

    def withdraw(self, job: Job) -> None:
        """Remove a job that has not started; one that runs is not interrupted."""
        with self._lock, contextlib.suppress(KeyError):  # it runs, or its result is on its way
            self._queue.withdraw(job)

    def close(self) -> None:
        """End the threads after the jobs that they run; queued jobs do not start."""
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._inbox.put(None)

    def _work(self) -> None:
        lower_priority(self._nice)
        following: Job | None = None
        while (job := following or self._inbox.get()) is not None:
            job.started = time.monotonic()
            try:
                result = job.work()
            except Exception as error:  # noqa: BLE001 - only this request fails
                result = decode_failure(error)
            elapsed = time.monotonic() - job.started
            following = self._next_after(job)
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is exiting
                self._loop.call_soon_threadsafe(partial(job.done, result, elapsed))
            del job, result  # otherwise this frame keeps the pixels alive until the next image

    def _next_after(self, job: Job) -> Job | None:
        """Return the job that a thread runs after `job`; None if nothing waits."""
        with self._lock:
            return self._queue.finish(job, time.monotonic(), is_closing=self._closed)


def decode_failure(error: Exception) -> Exception:
    """Return a decoder's error without its frames; log the traceback if it is unexpected."""
    if not isinstance(error, TidegateError):
        log.error("unexpected error while decoding", exc_info=error)
    return without_frames(error)
