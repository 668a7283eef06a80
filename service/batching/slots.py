"""One engine slot and the thread that runs its batches, isolating an image that breaks one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from service.batching.threads import be_nice, stay_on
from service.engines.base import Engine
from service.types import Outputs, Pixels

log = logging.getLogger(__name__)

_NICE = 2  # behind the event loop, ahead of the decoders

RowResult = Outputs | Exception  # one image's outputs [1, …], or why there are none
Run = Callable[[Sequence[Pixels]], Outputs]
Decode = Callable[[], Pixels]
Image = Pixels | Decode  # decoded already, or to be decoded by the slot's thread


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What came of one batch, image by image."""

    rows: list[RowResult]
    decode_s: list[float]  # per image, 0 where it came decoded
    undecoded: frozenset[int]  # rows whose exception is the decoder's, not the engine's
    engine_s: float
    clean: bool  # the first run succeeded, so the duration says something about ℓ(b)

    @property
    def ran(self) -> int:
        """Return how many images the engine was given."""
        return len(self.rows) - len(self.undecoded)


Done = Callable[[BatchResult], "Batch | None"]  # returns what to run next, if anything waits


@dataclass(frozen=True, slots=True)
class Batch:
    """Images to run, and whom to tell of the result."""

    images: Sequence[Image]
    done: Done


class Slot:
    """Owns one thread. A batch's `done` is called from that thread, and may hand it the next."""

    def __init__(self, index: int, engine: Engine, core: int | None = None) -> None:
        """Start the thread, on `core` where one is given."""
        self.index = index
        self._core = core
        self._engine = engine
        self._engine_since: float | None = None
        self._inbox: SimpleQueue[Batch | None] = SimpleQueue()
        # A daemon, so that a wedged engine cannot keep the process from exiting.
        self._thread = threading.Thread(target=self._work, name=f"slot-{index}", daemon=True)
        self._thread.start()

    @property
    def engine_running_s(self) -> float:
        """Return how long the engine has been at this slot's batch, 0 while it is not."""
        since = self._engine_since
        return 0.0 if since is None else time.perf_counter() - since

    def run(self, batch: Batch) -> None:
        """Hand over a batch; returns at once."""
        self._inbox.put(batch)

    def stop(self) -> None:
        """Finish what was handed over, then end the thread."""
        self._inbox.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; False when it does not in time."""
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _work(self) -> None:
        be_nice(_NICE)
        stay_on(self._core)
        while (batch := self._inbox.get()) is not None:
            while batch is not None:
                batch = batch.done(self._run_batch(batch.images))

    def _run_batch(self, images: Sequence[Image]) -> BatchResult:
        rows: list[RowResult | None] = [None] * len(images)
        decode_s = [0.0] * len(images)
        ready: list[tuple[int, Pixels]] = []
        for index, image in enumerate(images):
            if callable(image):
                started = time.perf_counter()
                try:
                    ready.append((index, image()))
                except Exception as error:  # noqa: BLE001 - whatever it raises is the request's
                    rows[index] = error
                decode_s[index] = time.perf_counter() - started
            else:
                ready.append((index, image))
        undecoded = frozenset(index for index, row in enumerate(rows) if row is not None)
        ran, engine_s = self._run_engine([image for _, image in ready])
        for (index, _), row in zip(ready, ran, strict=True):
            rows[index] = row
        clean = bool(ran) and not any(isinstance(row, Exception) for row in ran)
        return BatchResult(_whole(rows), decode_s, undecoded, engine_s, clean)

    def _run_engine(self, images: Sequence[Pixels]) -> tuple[list[RowResult], float]:
        if not images:
            return [], 0.0
        self._engine_since = started = time.perf_counter()
        try:
            rows = run_isolating(lambda part: self._engine.run(self.index, part), images)
        finally:
            self._engine_since = None
        return rows, time.perf_counter() - started


def _whole(rows: list[RowResult | None]) -> list[RowResult]:
    return [row for row in rows if row is not None]  # all are: for the type checker


def run_isolating(run: Run, images: Sequence[Pixels]) -> list[RowResult]:
    """Run a batch; if it fails, halve it until the image that breaks it stands alone.

    Returns one result per image, in order. Its neighbours are answered, at the cost of at most
    2·log2(n) further runs per broken image.
    """
    try:
        outputs = run(images)
        return [_row(outputs, index) for index in range(len(images))]
    except Exception as error:  # noqa: BLE001 - whatever the runtime raises must answer the batch
        if len(images) == 1:
            log.warning("engine failed on an image: %s", error)
            return [error]
        half = len(images) // 2
        return run_isolating(run, images[:half]) + run_isolating(run, images[half:])


def _row(outputs: Outputs, index: int) -> RowResult:
    if outputs.finite(index):
        return outputs.rows(index, index + 1)
    return ArithmeticError("the engine returned NaN or infinity")
