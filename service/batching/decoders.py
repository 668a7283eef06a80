"""Decoder threads, and who is next for one: class first, then deadline. Used on the event loop.

A place is held until its thread is done with the image, also when the request has long gone: so
admission sees work that nobody waits for any more. Whoever leaves before its turn leaves nothing
behind, neither its bytes nor a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from service.batching.latency import RunningMean
from service.batching.policy import Waiting
from service.batching.queue import OrderedQueue

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Turn(Waiting):
    came: asyncio.Future[None]


class Decoders:
    """A bounded pool with a queue in the policy's order."""

    def __init__(self, workers: int, seed_s: float) -> None:
        """Start `workers` threads as they are needed; `seed_s` is a first guess at one image."""
        self.workers = workers
        self._mean = RunningMean(seed_s)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._loop = asyncio.get_running_loop()
        self._waiting: OrderedQueue[_Turn] = OrderedQueue()
        self._running = 0

    @property
    def load(self) -> int:
        """Return how many images are being decoded or wait for it, wanted or not."""
        return self._running + len(self._waiting)

    @property
    def mean_s(self) -> float:
        """Return what one image costs, in seconds of a thread."""
        return self._mean.value

    async def run(self, request: Waiting, work: Callable[[], T]) -> tuple[T, float]:
        """Run `work` on a thread when it is this request's turn; returns its result and seconds."""
        await self._turn(request)
        # Shielded: a cancelled request must not take back a place that its thread still uses.
        return await asyncio.shield(self._loop.run_in_executor(self._pool, self._timed, work))

    def close(self) -> None:
        """Start nothing new; threads end with what they do."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _turn(self, request: Waiting) -> None:
        if self._running < self.workers:
            self._running += 1
            return
        turn = _Turn(
            request.priority, request.deadline, request.arrival, self._loop.create_future()
        )
        self._waiting.insert(turn)
        try:
            await turn.came
        except asyncio.CancelledError:
            if not turn.came.cancelled():
                self._free()  # the place was given in the same moment: pass it on
            else:
                with contextlib.suppress(KeyError):  # `_free` has met it since it was cancelled
                    self._waiting.remove(turn)
            raise

    def _timed(self, work: Callable[[], T]) -> tuple[T, float]:  # on a decoder thread
        started = time.monotonic()
        try:
            result = work()
        finally:
            elapsed = time.monotonic() - started
            self._loop.call_soon_threadsafe(self._done, elapsed)
        return result, elapsed

    def _done(self, elapsed_s: float) -> None:
        self._mean.observe(elapsed_s)
        self._free()

    def _free(self) -> None:
        """Give a free place to the next in the queue, or keep it for an arrival."""
        for turn in self._waiting.take():
            if not turn.came.cancelled():
                turn.came.set_result(None)
                return
        self._running -= 1
