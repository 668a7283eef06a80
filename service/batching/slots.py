"""One engine slot and the thread that runs its batches, isolating an image that breaks one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from service.batching.threads import be_nice
from service.engines.base import Engine
from service.types import Outputs, Pixels

log = logging.getLogger(__name__)

_NICE = 2  # behind the event loop, ahead of the decoders

RowResult = Outputs | Exception  # one image's outputs [1, …], or why there are none
Run = Callable[[Sequence[Pixels]], Outputs]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What came of one batch, image by image."""

    rows: list[RowResult]
    engine_s: float
    clean: bool  # the first run succeeded, so the duration says something about ℓ(b)


class Slot:
    """Owns one thread. `done` is called from that thread with each batch's result."""

    def __init__(self, index: int, engine: Engine) -> None:
        self.index = index
        self._engine = engine
        self._inbox: SimpleQueue[tuple[Sequence[Pixels], Callable[[BatchResult], None]] | None] = (
            SimpleQueue()
        )
        # A daemon, so that a wedged engine cannot keep the process from exiting.
        self._thread = threading.Thread(target=self._work, name=f"slot-{index}", daemon=True)
        self._thread.start()

    def run(self, images: Sequence[Pixels], done: Callable[[BatchResult], None]) -> None:
        """Hand over a batch; returns at once."""
        self._inbox.put((images, done))

    def stop(self) -> None:
        """Finish what was handed over, then end the thread."""
        self._inbox.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; False when it does not in time."""
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _work(self) -> None:
        be_nice(_NICE)
        while (job := self._inbox.get()) is not None:
            images, done = job
            done(self._run_batch(images))
            del job, images, done  # until the next batch, this frame would keep this one's pixels

    def _run_batch(self, images: Sequence[Pixels]) -> BatchResult:
        started = time.perf_counter()
        rows = run_isolating(lambda part: self._engine.run(self.index, part), images)
        elapsed = time.perf_counter() - started
        return BatchResult(rows, elapsed, not any(isinstance(row, Exception) for row in rows))


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
