"""Decoder threads, and who is next for one: class first, then deadline. Used on the event loop.

A place is held until its thread is done with the image, also when the request has long gone: so
admission sees work that nobody waits for any more. Whoever leaves before its turn leaves nothing
behind, neither its bytes nor a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from service.batching.latency import RunningMean
from service.batching.policy import Waiting
from service.batching.queue import OrderedQueue
from service.batching.threads import be_nice

T = TypeVar("T")
_NICE = 4  # behind the engine's threads: a decoded image that nobody can run yet is no use


@dataclass(slots=True, eq=False)
class Job(Waiting):
    """One image to decode, and whom to tell."""

    work: Callable[[], Any]
    done: Callable[[Any, float], None]
    running: bool = False


class Decoders:
    """A bounded pool of threads with a queue in the policy's order."""

    def __init__(self, workers: int, seed_s: float) -> None:
        """Start `workers` threads; `seed_s` is a first guess at one image."""
        self.workers = workers
        self._mean = RunningMean(seed_s)
        self._loop = asyncio.get_running_loop()
        self._waiting: OrderedQueue[Job] = OrderedQueue()
        self._running = 0
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        # Daemons, so that a codec that never returns cannot keep the process from exiting.
        self._threads = [
            threading.Thread(target=self._work, name=f"decode-{index}", daemon=True)
            for index in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def load(self) -> int:
        """Return how many images are being decoded or wait for it, wanted or not."""
        return self._running + len(self._waiting)

    @property
    def mean_s(self) -> float:
        """Return what one image costs, in seconds of a thread."""
        return self._mean.value

    def start(
        self, request: Waiting, work: Callable[[], T], done: Callable[[T | Exception, float], None]
    ) -> Job:
        """Run `work` on a thread when it is this request's turn.

        `done` is then called on the loop with the result, or the exception, and the seconds taken.
        """
        job = Job(request.priority, request.deadline, request.arrival, work, done)
        if self._running < self.workers:
            self._running += 1
            self._give(job)
        else:
            self._waiting.insert(job)
        return job

    def withdraw(self, job: Job) -> None:
        """Forget a job whose turn has not come; one that runs, runs on."""
        if not job.running:
            self._waiting.remove(job)

    def close(self) -> None:
        """Start nothing new; threads end with what they do."""
        for _ in self._threads:
            self._inbox.put(None)

    def _give(self, job: Job) -> None:
        job.running = True
        self._inbox.put(job)

    def _work(self) -> None:
        be_nice(_NICE)
        while (job := self._inbox.get()) is not None:
            started = time.monotonic()
            try:
                result = job.work()
            except Exception as error:  # noqa: BLE001 - whatever it raises is the request's
                result = error
            elapsed = time.monotonic() - started
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._finish, job, result, elapsed)
            del job, result  # until the next image, this frame would keep this one's pixels

    def _finish(self, job: Job, result: Any, elapsed_s: float) -> None:
        self._mean.observe(elapsed_s)
        self._running -= 1
        for following in self._waiting.take():
            self._running += 1
            self._give(following)
            break
        job.done(result, elapsed_s)
