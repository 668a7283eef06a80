"""Load a further version during traffic, on a thread of the lowest priority."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tidegate.service import memory
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.bundle.golden import check_decoder, check_golden, golden_tolerance
from tidegate.service.bundle.signature import open_trusted
from tidegate.service.bundle.store import Bundle, check_files
from tidegate.service.bundle_reference import drift_reference
from tidegate.service.cpu import lower_priority
from tidegate.service.drift.monitor import Monitor
from tidegate.service.engines.base import Engine
from tidegate.service.engines.choose import buckets_for
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.open_like import may_use_all_cores, open_like, open_on_all_cores
from tidegate.service.errors import BundleRefused
from tidegate.service.idle_turns import IdleTurns
from tidegate.service.startup import check_input_size

log = logging.getLogger(__name__)

# Lower priority than every other thread. With a still lower one the event loop would wait for this
# thread to run whenever it is its turn to have the interpreter lock.
_NICE = 10
_SPARE_BYTES = 64 << 20
_MOST_REMEMBERED = 16


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that has passed its golden probes, its lane and its drift monitors."""

    bundle: Bundle
    lane: Lane
    monitor: Monitor


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a graph that is, or was, served."""

    latency: LatencyModel
    on_all_cores: bool  # whether a single image runs on all cores

    @classmethod
    def of(cls, lane: Lane) -> _Known:
        return cls(lane.latency, lane.all_cores_engine is not None)


@dataclass(frozen=True, slots=True)
class Loader:
    """Opens versions; each call has a thread of its own."""

    config: EngineConfig
    trusted_keys: Path | None
    drift_run_length: int
    # Of unloaded versions, by the digest of the graph.
    remembered: dict[str, _Known] = field(default_factory=dict, init=False)

    def remember(self, bundle: Bundle, lane: Lane) -> None:
        """Keep what is known of a version that is unloaded, for when its graph is loaded again."""
        graph = bundle.manifest.gate.calibrated_for_model
        self.remembered.pop(graph, None)
        self.remembered[graph] = _Known.of(lane)
        for oldest in list(self.remembered)[:-_MOST_REMEMBERED]:
            del self.remembered[oldest]

    async def load(self, path: Path, scheduler: Scheduler, running: Lane) -> Loaded:
        """Open and verify the bundle at `path`, and warm it up in the turns of idle slots.

        `running` is a lane that is served; the engines are opened as its are.

        Raises BundleRefused, KeyUnusable or EngineUnavailable.
        """
        turns = IdleTurns(scheduler, asyncio.get_running_loop(), running)
        thread = ThreadPoolExecutor(1, "load", initializer=partial(lower_priority, _NICE))
        try:
            work = partial(self._load, path, turns, running)
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        finally:
            thread.shutdown(wait=False)

    def _load(self, path: Path, turns: IdleTurns, running: Lane) -> Loaded:
        started = time.monotonic()
        bundle = open_trusted(path, self.trusted_keys)
        check_decoder(bundle)
        _check_memory(bundle, running, self.config)
        reference = drift_reference(bundle)
        with memory.blocks_apart(), ExitStack() as opened:
            lane = self._open(bundle, turns, running, opened)
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

    def _open(self, bundle: Bundle, turns: IdleTurns, running: Lane, opened: ExitStack) -> Lane:
        """Open the engines of a bundle, and learn how long they take."""
        remembered = self.remembered.get(bundle.manifest.gate.calibrated_for_model)
        known = remembered or _Known.of(running)
        sizes = known.latency.buckets
        engine = self._engine(bundle, running, sizes, opened)
        check_input_size(bundle, engine)
        if remembered is not None:
            for size in sizes:
                turns.on_every_slot(engine, size)
        elif not all(turns.is_like_known(engine, size) for size in sizes):
            opened.close()
            return self._open_measured(bundle, turns, running, opened)
        all_cores_engine = None
        if known.on_all_cores:
            all_cores_engine = self._all_cores_engine(bundle, running, opened)
        return _lane(bundle, running, engine, known.latency.renewed(), all_cores_engine)

    def _open_measured(
        self, bundle: Bundle, turns: IdleTurns, running: Lane, opened: ExitStack
    ) -> Lane:
        """Open the engines of a graph whose durations are unknown, and measure them."""
        buckets = buckets_for(self.config.max_batch_size, bundle.manifest.engine.buckets)
        engine = self._engine(bundle, running, buckets, opened)
        latency_s = turns.measure(engine, buckets, all_sizes=bool(self.config.max_batch_size))
        engine.keep(max(latency_s))
        for size in latency_s:
            turns.on_every_slot(engine, size)
        all_cores_engine, single_image_s = None, None
        if may_use_all_cores(engine, self.config):
            all_cores_engine = self._all_cores_engine(bundle, running, opened)
            single_image_s = turns.single_image_s(engine, all_cores_engine)
            if single_image_s is None:
                all_cores_engine.close()
                all_cores_engine = None
        busy = running.latency.predict(1) / max(1e-9, turns.alone_s(running.engine, 1))
        seeds = {size: busy * alone for size, alone in latency_s.items()}
        latency = LatencyModel(seeds, single_image_s)
        return _lane(bundle, running, engine, latency, all_cores_engine)

    def _engine(
        self, bundle: Bundle, running: Lane, sizes: Sequence[int], opened: ExitStack
    ) -> Engine:
        model, precision = bundle.model_path, bundle.manifest.precision
        engine = open_like(running.engine, model, self._config(bundle), sizes, precision)
        opened.callback(engine.close)
        return engine

    def _all_cores_engine(self, bundle: Bundle, running: Lane, opened: ExitStack) -> Engine:
        model, precision = bundle.model_path, bundle.manifest.precision
        engine = open_on_all_cores(running.engine, model, self._config(bundle), precision)
        opened.callback(engine.close)
        return engine

    def _config(self, bundle: Bundle) -> EngineConfig:
        return self.config.for_calibration(bundle.manifest.gate.calibrated_for_engine)


def _lane(
    bundle: Bundle,
    running: Lane,
    engine: Engine,
    latency: LatencyModel,
    all_cores_engine: Engine | None,
) -> Lane:
    limits = replace(running.limits, max_batch_size=max(latency.buckets))
    return Lane(engine, latency, limits, all_cores_engine, bundle.manifest.name)


def _check_memory(bundle: Bundle, running: Lane, config: EngineConfig) -> None:
    """Raise BundleRefused if the host has too little memory for the copies of the weights."""
    info = running.engine.info
    copies = 1
    if info.device == "cpu" and (info.threads_per_slot > 1 or info.name == "openvino"):
        copies = running.engine.slots * (
            len(running.latency.buckets) if info.name == "openvino" else 1
        )
    copies += may_use_all_cores(running.engine, config)
    # While it loads, a runtime has the file and the weights.
    needed = (copies + 1) * bundle.model_path.stat().st_size + _SPARE_BYTES
    available = memory.available_bytes()
    if available is not None and needed > available:
        raise BundleRefused(
            f"{bundle.path}: loading it needs about {needed >> 20} MiB of memory, and "
            f"{available >> 20} MiB are available. Remove a version from the serving file first, "
            "or raise the memory limit."
        )
