"""Load a further version during traffic, on a thread of the lowest priority.

Nothing is timed while all slots are busy, as the first warm-up does: every batch of the new engine
runs in the turn of an idle slot, next to a batch of an engine that is known, so that a busy machine
slows both alike.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

from tidegate.service import memory
from tidegate.service.batching.idle_work import IdleWork
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.batching.slots import BatchResult
from tidegate.service.bundle.golden import check_decoder, check_golden, golden_tolerance
from tidegate.service.bundle.signature import open_trusted
from tidegate.service.bundle.store import Bundle, check_files
from tidegate.service.bundle_reference import drift_reference
from tidegate.service.cpu import lower_priority
from tidegate.service.drift.monitor import Monitor
from tidegate.service.engines.base import Engine
from tidegate.service.engines.choose import buckets_for
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.open_like import open_like
from tidegate.service.engines.warm_up import ROUNDS, WORTH_IT, clearly_faster, random_image
from tidegate.service.errors import BundleRefused
from tidegate.service.startup import check_input_size
from tidegate.service.types import Outputs, Pixels

log = logging.getLogger(__name__)

# Lower priority than every other thread. With a still lower one the event loop would wait for this
# thread to run whenever it is its turn to have the interpreter lock.
_NICE = 10
_PATIENCE_S = 3.0  # after this a batch runs before requests
_TURN_TIMEOUT_S = 600.0
_ROUNDS = 3  # ROUNDS for a decision that noise must not change
# A graph whose batches take this factor longer or shorter than the known ones is another shape.
_SAME = 1.25
_SPARE_BYTES = 64 << 20
_MOST_REMEMBERED = 16


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that has passed its golden probes, its lane and its drift monitors."""

    bundle: Bundle
    lane: Lane
    monitor: Monitor


@dataclass(frozen=True, slots=True)
class Loader:
    """Opens versions; each call has a thread of its own."""

    config: EngineConfig
    trusted_keys: Path | None
    drift_run_length: int
    # Of unloaded versions, by the digest of the graph.
    durations: dict[str, LatencyModel] = field(default_factory=dict, init=False)

    def remember(self, bundle: Bundle, latency: LatencyModel) -> None:
        """Keep what is known of a version that is unloaded, for when its graph is loaded again."""
        graph = bundle.manifest.gate.calibrated_for_model
        self.durations.pop(graph, None)
        self.durations[graph] = latency
        for oldest in list(self.durations)[:-_MOST_REMEMBERED]:
            del self.durations[oldest]

    async def load(self, path: Path, scheduler: Scheduler, known: Lane) -> Loaded:
        """Open and verify the bundle at `path`, and warm it up in the turns of idle slots.

        Raises BundleRefused, KeyUnusable or EngineUnavailable.
        """
        turns = _Turns(scheduler, asyncio.get_running_loop(), known)
        thread = ThreadPoolExecutor(1, "load", initializer=partial(lower_priority, _NICE))
        try:
            work = partial(self._load, path, turns, known)
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        finally:
            thread.shutdown(wait=False)

    def _load(self, path: Path, turns: _Turns, known: Lane) -> Loaded:
        started = time.monotonic()
        bundle = open_trusted(path, self.trusted_keys)
        check_decoder(bundle)
        _check_memory(bundle, known)
        reference = drift_reference(bundle)
        with memory.blocks_apart(), ExitStack() as opened:
            lane = self._open(bundle, turns, known, opened)
            for engine in filter(None, (lane.engine, lane.all_cores_engine)):
                check_golden(bundle, partial(turns.outputs, engine), golden_tolerance(engine.info))
            check_files(path, bundle.manifest)  # the runtime has read them since they were checked
            monitor = Monitor(reference, self.drift_run_length)
            opened.pop_all()
        manifest = bundle.manifest
        log.info(
            "loaded %s %s, digest %s, in %.1f s during traffic",
            manifest.name,
            manifest.version,
            bundle.short_digest,
            time.monotonic() - started,
        )
        return Loaded(bundle, lane, monitor)

    def _open(self, bundle: Bundle, turns: _Turns, known: Lane, opened: ExitStack) -> Lane:
        """Open the engines of a bundle, and learn how long they take."""
        manifest = bundle.manifest
        remembered = self.durations.get(manifest.gate.calibrated_for_model)
        sizes = list((remembered or known.latency).buckets)

        def open_engine(like: Engine, buckets: Sequence[int]) -> Engine:
            model, precision = bundle.model_path, manifest.precision
            engine = open_like(like, model, self.config, buckets, precision)
            opened.callback(engine.close)
            return engine

        engine = open_engine(known.engine, sizes)
        check_input_size(bundle, engine)
        if remembered is not None:
            latency = remembered.renewed()
            for size in sizes:
                turns.on_every_slot(engine, size)
        elif all(turns.is_like_known(engine, size) for size in sizes):
            latency = known.latency.renewed()
        else:
            opened.close()
            buckets = buckets_for(self.config.max_batch_size, manifest.engine.buckets)
            engine = open_engine(known.engine, buckets)
            latency_s = turns.measure(engine, buckets, all_sizes=bool(self.config.max_batch_size))
            engine.keep(max(latency_s))
            for size in latency_s:
                turns.on_every_slot(engine, size)
            busy = known.latency.predict(1) / max(1e-9, turns.alone_s(known.engine, 1))
            latency = LatencyModel({size: busy * alone for size, alone in latency_s.items()})
        all_cores_engine = None
        if known.all_cores_engine is not None:
            all_cores_engine = open_engine(known.all_cores_engine, (1,))
        limits = replace(known.limits, max_batch_size=max(latency.buckets))
        return Lane(engine, latency, limits, all_cores_engine, manifest.name)


class _Turns:
    """Runs batches of an engine in the turns of idle slots. Called on the loading thread."""

    def __init__(self, scheduler: Scheduler, loop: asyncio.AbstractEventLoop, known: Lane) -> None:
        self._scheduler = scheduler
        self._loop = loop
        self._known = known

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
                self.alone_s(engine, size, 0) / self.alone_s(self._known.engine, size)
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

    def _run(
        self, engine: Engine, images: Sequence[Pixels], slot: int | None
    ) -> tuple[Outputs, float]:
        """`slot` is the engine's; None: that of the thread, for an engine that also has others."""
        future: Future[BatchResult] = Future()
        work = IdleWork(
            images,
            engine,
            self._known,
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


def _check_memory(bundle: Bundle, known: Lane) -> None:
    """Raise BundleRefused if the host has too little memory for the copies of the weights."""
    info = known.engine.info
    copies = 1
    if info.device == "cpu" and (info.threads_per_slot > 1 or info.name == "openvino"):
        copies = known.engine.slots * (len(known.latency.buckets) if info.name == "openvino" else 1)
    copies += known.all_cores_engine is not None
    # While it loads, a runtime has the file and the weights.
    needed = (copies + 1) * bundle.model_path.stat().st_size + _SPARE_BYTES
    available = memory.available_bytes()
    if available is not None and needed > available:
        raise BundleRefused(
            f"{bundle.path}: loading it needs about {needed >> 20} MiB of memory, and "
            f"{available >> 20} MiB are available. Remove a version from the serving file first, "
            "or raise the memory limit."
        )
