"""An engine slot: one thread that decodes and runs batches, and isolates broken images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

import numpy as np

from tidegate.service.batching.decoders import decode_failure
from tidegate.service.batching.failures import Failures
from tidegate.service.batching.isolate import DeviceFault, RowResult, run_isolating
from tidegate.service.cpu import lower_priority, pin_to_core
from tidegate.service.engines.base import Engine, TopUp
from tidegate.service.owned_thread import start_owned
from tidegate.service.types import Pixels

log = logging.getLogger(__name__)

_NICE = 2  # lower priority than the event loop, higher than the decoders

Decode = Callable[[], Pixels]
Image = Pixels | Decode  # pixels, or a function with which the slot's thread decodes them


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of one batch, with one entry per image."""

    rows: list[RowResult]
    decode_s: list[float]  # per image; 0 if it was decoded before
    undecoded: frozenset[int]  # rows whose exception is from the decoder, not the engine
    engine_s: float
    clean: bool  # the first run succeeded, so that engine_s is a measurement of ℓ(b)
    parts_s: Mapping[str, float] = field(default_factory=dict)  # of engine_s; empty if unknown
    device_fault: DeviceFault = field(default_factory=DeviceFault)
    decode_at: Sequence[float | None] = ()  # when each image's decoding began, on time.monotonic()
    engine_at: float = 0.0  # the same of the engine

    @property
    def ran(self) -> int:
        """Return how many images were passed to the engine."""
        return len(self.rows) - len(self.undecoded)


Done = Callable[[BatchResult], "Batch | None"]  # returns the next batch, if any


@dataclass(frozen=True, slots=True)
class Batch:
    """Images to run on an engine, and the callback for the result."""

    images: Sequence[Image]
    done: Done
    engine: Engine
    engine_slot: int  # of the engine; usually the index of the slot that runs the batch
    top_up: TopUp | None = None  # called for more images when its turn on a busy device comes


class Slot:
    """Owns one thread, which calls a batch's `done` and then runs the batch that it returns."""

    def __init__(
        self,
        index: int,
        core: int | None = None,
        *,
        on_death: Callable[[str], object],
    ) -> None:
        """Start the thread, pinned to `core` if given. `on_death` is called if it crashes."""
        self.index = index
        self._core = core
        self._engine_since: float | None = None
        self._failures = Failures()
        self._inbox: SimpleQueue[Batch | None] = SimpleQueue()
        self._thread = start_owned(self._work, f"slot-{index}", on_death)

    @property
    def engine_since(self) -> float | None:
        """Return when the engine started this slot's batch (perf_counter); None if idle."""
        return self._engine_since

    def run(self, batch: Batch) -> None:
        """Queue a batch for the thread; return at once."""
        self._inbox.put(batch)

    def stop(self) -> None:
        """End the thread after the batches that are queued."""
        self._inbox.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; return False if it does not end in time."""
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _work(self) -> None:
        lower_priority(_NICE)
        pin_to_core(self._core)
        while (batch := self._inbox.get()) is not None:
            while batch is not None:
                batch = batch.done(self._run_batch(batch))

    def _run_batch(self, batch: Batch) -> BatchResult:
        images = batch.images
        rows: list[RowResult | None] = [None] * len(images)
        decode_s = [0.0] * len(images)
        decode_at: list[float | None] = [None] * len(images)
        ready: list[tuple[int, Pixels]] = []
        for index, image in enumerate(images):
            if isinstance(image, np.ndarray):
                ready.append((index, image))
                continue
            decode_at[index], started = time.monotonic(), time.perf_counter()
            try:
                ready.append((index, image()))
            except Exception as error:  # noqa: BLE001 - only this request fails
                rows[index] = decode_failure(error)
            decode_s[index] = time.perf_counter() - started
        undecoded = frozenset(index for index, row in enumerate(rows) if row is not None)
        device_fault = DeviceFault()
        engine_at, started = time.monotonic(), time.perf_counter()
        ran = self._run_engine([image for _, image in ready], batch, device_fault)
        engine_s = time.perf_counter() - started if ran else 0.0
        for (index, _), row in zip(ready, ran, strict=False):
            rows[index] = row
        rows += ran[len(ready) :]  # images from top_up
        decode_s += [0.0] * (len(rows) - len(images))
        decode_at += [None] * (len(rows) - len(images))
        clean = bool(ran) and not any(isinstance(row, Exception) for row in ran)
        clean = clean and device_fault == DeviceFault()
        parts_s = batch.engine.parts_s(batch.engine_slot) if clean else {}
        return BatchResult(
            _whole(rows),
            decode_s,
            undecoded,
            engine_s,
            clean,
            parts_s,
            device_fault,
            decode_at,
            engine_at,
        )

    def _run_engine(
        self, images: Sequence[Pixels], batch: Batch, device_fault: DeviceFault
    ) -> list[RowResult]:
        if not images:
            return []
        run = partial(batch.engine.run, batch.engine_slot)
        self._engine_since = time.perf_counter()
        try:
            rows = run_isolating(run, images, batch.top_up, device_fault)
            self._failures.observe(batch.engine, batch.engine_slot, rows, device_fault)
            return rows
        finally:
            self._engine_since = None


def _whole(rows: list[RowResult | None]) -> list[RowResult]:
    return [row for row in rows if row is not None]  # for the type checker: no row is None
