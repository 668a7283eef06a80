"""Run and time batches of a further engine in the turns of idle slots, while requests are answered.

Nothing is timed while all slots are busy, as the first warm-up does: every batch of the new engine
runs next to a batch of an engine that is served, so that a busy machine slows both alike.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from statistics import median

from tidegate.service.batching.idle_work import IdleWork
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.batching.slots import BatchResult
from tidegate.service.engines.base import Engine
from tidegate.service.engines.warm_up import (
    ROUNDS,
    WORTH_ALL_CORES,
    WORTH_IT,
    clearly_faster,
    random_image,
)
from tidegate.service.types import Outputs, Pixels

_PATIENCE_S = 3.0  # after this a batch runs before requests
_TURN_TIMEOUT_S = 600.0
_ROUNDS = 3  # ROUNDS for a decision that noise must not change
# A graph whose batches take this factor longer or shorter than the served ones is another shape.
_SAME = 1.25


class IdleTurns:
    """Runs batches of an engine in the turns of idle slots. Called on the loading thread."""

    def __init__(
        self, scheduler: Scheduler, loop: asyncio.AbstractEventLoop, running: Lane
    ) -> None:
        self._scheduler = scheduler
        self._loop = loop
        self._running = running

    def outputs(self, engine: Engine, images: Sequence[Pixels], slot: int = 0) -> Outputs:
        """Return the outputs of one image."""
        return self._run(engine, images, slot)[0]

    def on_every_slot(self, engine: Engine, size: int) -> None:
        """Run a batch on each slot, one after the other."""
        for slot in range(engine.slots):
            self._run(engine, (random_image(engine),) * size, slot)

    def alone_s(self, engine: Engine, size: int, slot: int | None = None) -> float:
        """Return how long a batch takes while nothing else runs."""
        return self._run(engine, (random_image(engine),) * size, slot)[1]

    def is_like_known(self, engine: Engine, size: int) -> bool:
        """Return whether a batch takes as long as the known engine's; if in doubt, repeat it."""
        self.on_every_slot(engine, size)  # the first run of a shape is slower
        ratios: list[float] = []
        while len(ratios) < ROUNDS:
            ratios += [
                self.alone_s(engine, size, 0) / self.alone_s(self._running.engine, size)
                for _ in range(_ROUNDS)
            ]
            if 1 / _SAME < median(ratios) < _SAME:
                return True
        return False

    def measure(
        self, engine: Engine, buckets: Sequence[int], *, all_sizes: bool
    ) -> dict[int, float]:
        """Return the seconds of each batch size that is worth it, while nothing else runs."""
        latency_s: dict[int, float] = {}
        for size in buckets:
            self.on_every_slot(engine, size)
            if not latency_s or all_sizes:
                latency_s[size] = min(self.alone_s(engine, size, 0) for _ in range(_ROUNDS))
                continue
            before = max(latency_s)
            took_s = [
                (self.alone_s(engine, before, 0), self.alone_s(engine, size, 0))
                for _ in range(ROUNDS)
            ]
            rates = [(before / small_s, size / large_s) for small_s, large_s in took_s]
            if not clearly_faster(rates, WORTH_IT):
                break
            latency_s[size] = min(large_s for _, large_s in took_s)
        return latency_s

    def single_image_s(self, engine: Engine, all_cores_engine: Engine) -> float | None:
        """Return the seconds of one image on `all_cores_engine`; None if it is hardly faster."""
        self.alone_s(all_cores_engine, 1, 0)  # the first run is slower
        took_s = [
            (self.alone_s(engine, 1, 0), self.alone_s(all_cores_engine, 1, 0))
            for _ in range(ROUNDS)
        ]
        if median(narrow_s / wide_s for narrow_s, wide_s in took_s) < WORTH_ALL_CORES:
            return None
        return median(wide_s for _, wide_s in took_s)

    def _run(
        self, engine: Engine, images: Sequence[Pixels], slot: int | None
    ) -> tuple[Outputs, float]:
        """`slot` is the engine's; None: that of the thread, for an engine that also has others."""
        future: Future[BatchResult] = Future()
        work = IdleWork(
            images,
            engine,
            self._running,
            future.set_result,
            engine_slot=slot,
            overdue_at=time.monotonic() + _PATIENCE_S,
        )
        self._loop.call_soon_threadsafe(self._scheduler.when_idle, work)
        result = future.result(_TURN_TIMEOUT_S)
        outputs = [row for row in result.rows if not isinstance(row, Exception)]
        for row in result.rows:
            if isinstance(row, Exception):
                raise row
        return outputs[0], result.engine_s
