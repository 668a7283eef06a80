"""Phases of a service (starting, ready, draining, failed) and what leads from one to the next."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from tidegate.service.batching.decoders import Decoders
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.policy import Limits
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.bundle.manifest import Histogram
from tidegate.service.bundle.store import Bundle
from tidegate.service.cpu import usable_cores
from tidegate.service.drift.monitor import Monitor
from tidegate.service.drift_watch import DriftWatch
from tidegate.service.engines.base import Engine, EngineInfo
from tidegate.service.engines.choose import EngineConfig, WarmEngine
from tidegate.service.errors import Draining, NotReady
from tidegate.service.imaging.decoder_pool import DecoderPool
from tidegate.service.metrics import Metrics, ModelMetrics, ServedModel
from tidegate.service.nvml import watch_gpus
from tidegate.service.pipeline import Classification, Pipeline, Upload
from tidegate.service.preparation import Prepared, prepare
from tidegate.service.review.image_store import ReviewConfig, ReviewStore

log = logging.getLogger(__name__)

_SAVE_S = 5.0  # for the drift monitors' last save: a network disk may hang
_SCORE_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


class Phase(Enum):
    """Where in its life a service is."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """What the operator set for the road; 0 means measure or derive."""

    bundle: Path
    engine: EngineConfig
    max_queue: int
    default_deadline_s: float
    decode_threads: int
    max_image_pixels: int
    engine_timeout_s: float
    max_class_series: int
    drift_run_length: int
    drift_state: Path | None
    review: ReviewConfig | None


@dataclass(frozen=True, slots=True)
class Served:
    """Everything that exists once a model is warm."""

    bundle: Bundle
    engine: Engine
    wide: Engine | None  # for an image that is alone
    decoders: Decoders | None  # None: the slots decode
    large_decoders: Decoders | None  # of the images that `pool` decodes
    pool: DecoderPool | None
    scheduler: Scheduler
    pipeline: Pipeline
    monitor: Monitor


class Service:
    """One model, from warm-up to drain."""

    def __init__(self, config: ServiceConfig, metrics: Metrics) -> None:
        self.phase = Phase.STARTING
        self.failure = ""
        self.failed = asyncio.Event()
        self.served: Served | None = None
        self._watch: DriftWatch | None = None
        self._watching: asyncio.Task[None] | None = None
        self._config = config
        self._metrics = metrics
        self._loop: asyncio.AbstractEventLoop | None = None  # once started
        self.review: ReviewStore | None = None
        if config.review is not None:
            self.review = ReviewStore(
                config.review, metrics.reviewed, on_death=self.fail_from_thread
            )

    async def start(self) -> None:
        """Open the bundle, warm every bucket of every slot, pass the golden probes: then ready.

        Raises BundleRefused or EngineUnavailable.
        """
        self._loop = asyncio.get_running_loop()
        config = self._config
        prepared = await asyncio.to_thread(
            prepare, config.bundle, config.engine, config.max_image_pixels
        )
        bundle, info = prepared.bundle, prepared.warm.engine.info
        model_metrics = ModelMetrics(
            self._metrics.registry, _served_model(bundle, info, config.max_class_series)
        )
        if info.device != "cpu":
            watch_gpus(self._metrics.registry)
        monitor = Monitor(prepared.reference, config.drift_run_length)
        watch = DriftWatch(monitor, model_metrics.drift, bundle.digest, config.drift_state)
        await asyncio.to_thread(watch.restore)
        self.served = self._build_served(prepared, model_metrics, monitor)
        self._watch = watch
        self._watching = asyncio.create_task(watch.run())
        self._watching.add_done_callback(self._on_watch_end)
        if self.phase is Phase.STARTING:
            self.phase = Phase.READY

    def _build_served(
        self, prepared: Prepared, model_metrics: ModelMetrics, monitor: Monitor
    ) -> Served:
        """Start the threads of the road."""
        config, bundle, warm, pool = self._config, prepared.bundle, prepared.warm, prepared.pool
        decoders = _decoders(config.decode_threads, warm.engine, self.fail_from_thread)
        large_decoders = _large_decoders(pool, self.fail_from_thread)
        scheduler = self._build_scheduler(warm, decoders, large_decoders)
        self._metrics.follow_queue(lambda: scheduler.waiting)
        pipeline = Pipeline(
            bundle, scheduler, self._metrics, model_metrics, monitor, config.max_image_pixels, pool
        )
        return Served(
            bundle=bundle,
            engine=warm.engine,
            wide=warm.wide,
            decoders=decoders,
            large_decoders=large_decoders,
            pool=pool,
            scheduler=scheduler,
            pipeline=pipeline,
            monitor=monitor,
        )

    def _build_scheduler(
        self, warm: WarmEngine, decoders: Decoders | None, large_decoders: Decoders | None
    ) -> Scheduler:
        return Scheduler(
            warm.engine,
            LatencyModel(warm.latency_s, warm.alone_s),
            Limits(
                max_batch_size=max(warm.latency_s),
                max_queue=self._config.max_queue,
                side_by_side=_side_by_side(warm.engine),
                default_deadline_s=self._config.default_deadline_s,
            ),
            wide=warm.wide,
            decoders=decoders,
            large_decoders=large_decoders,
            engine_timeout_s=self._config.engine_timeout_s,
            metrics=self._metrics,
            on_failure=self.fail,
        )

    async def classify(self, upload: Upload) -> Classification:
        """Send one upload down the road. Raises NotReady or what `Pipeline.classify` raises."""
        return await self.require().pipeline.classify(upload)

    def require(self) -> Served:
        """Return what is served. Raises NotReady while there is nothing, or Draining."""
        if self.served is None:
            if self.phase is Phase.DRAINING:
                raise Draining("The service is shutting down.")
            raise NotReady("The model is still warming up.")
        return self.served

    @property
    def unready_reason(self) -> str:
        """Return why a started service should get no traffic; "" if there is no reason."""
        return self._watch.failure if self._watch is not None else ""

    def begin_drain(self) -> None:
        """Report not ready, and keep serving until traffic has moved elsewhere."""
        if self.phase is not Phase.FAILED:
            self.phase = Phase.DRAINING

    def fail(self, reason: str) -> None:
        """Give up: not ready, and whoever waits on `failed` ends the process."""
        log.critical("giving up: %s", reason)
        self.phase = Phase.FAILED
        self.failure = reason
        self.failed.set()

    def fail_from_thread(self, reason: str) -> None:
        """Do what `fail` does, from any thread: the `on_death` of the threads the service owns."""
        if self._loop is None:  # nothing waits for `failed` yet
            self.fail(reason)
        else:
            with contextlib.suppress(RuntimeError):  # the loop has closed: the process is ending
                self._loop.call_soon_threadsafe(self.fail, reason)

    async def close(self, timeout_s: float) -> bool:
        """Stop the engine's threads; False when one does not end within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        ended = self.served is None or await self._close_served(self.served, deadline)
        if self.review is not None:
            await asyncio.to_thread(self.review.close, _left_s(deadline))
        return ended

    def _on_watch_end(self, watching: asyncio.Task[None]) -> None:
        """Give up, as for a thread that ends unasked: the watch itself catches every error."""
        error = None if watching.cancelled() else watching.exception()
        self.fail(f"drift monitoring ended unexpectedly: {error!r}")

    async def _close_served(self, served: Served, deadline: float) -> bool:
        if self._watching is not None:
            self._watching.remove_done_callback(self._on_watch_end)
            self._watching.cancel()
            await asyncio.wait({self._watching}, timeout=min(_SAVE_S, _left_s(deadline)))
        for decoders in (served.decoders, served.large_decoders):
            if decoders is not None:
                decoders.close()
        if served.pool is not None:
            await asyncio.to_thread(served.pool.close)
        ended = await asyncio.to_thread(served.scheduler.close, _left_s(deadline))
        if ended:
            served.engine.close()
            if served.wide is not None:
                served.wide.close()
        return ended


def _left_s(deadline: float) -> float:
    """Return the seconds to a deadline, and at least one: enough for threads that are idle."""
    return max(1.0, deadline - time.monotonic())


def _side_by_side(engine: Engine) -> int:
    """Return how many slots do not slow each other down: cores, or GPUs."""
    if engine.info.device == "cpu":
        return engine.slots
    return len({engine.device_of(slot) for slot in range(engine.slots)})


def _decoders(threads: int, engine: Engine, on_death: Callable[[str], object]) -> Decoders | None:
    """Return decoder threads, unless the slots' own threads are the cores to decode on.

    A slot of several threads would decode on one and leave the others idle.
    """
    if not threads and engine.info.device == "cpu" and engine.info.threads_per_slot == 1:
        return None
    return Decoders(threads or usable_cores(), on_death)


def _large_decoders(pool: DecoderPool | None, on_death: Callable[[str], object]) -> Decoders | None:
    """Return a thread for each process of the pool, if there is one."""
    if pool is None:
        return None
    return Decoders(pool.processes, on_death, name="decode-large", nice=0)


def _served_model(bundle: Bundle, info: EngineInfo, max_class_series: int) -> ServedModel:
    manifest, gate = bundle.manifest, bundle.gate
    bounds = [np.quantile(fold, _SCORE_QUANTILES) for fold in (gate.energy_a, gate.mahalanobis_a)]
    return ServedModel(
        name=manifest.name,
        version=manifest.version,
        info={
            "digest": bundle.digest,
            "preprocess_digest": manifest.preprocess.digest,
            "engine": info.name,
            "precision": info.precision,
            "device": info.device,
        },
        class_fraction=manifest.reference.class_fraction,
        reference_samples=manifest.reference.samples,
        alphas={"reject": gate.alpha_reject, "review": gate.alpha_review},
        calibration_samples=gate.calibration_size,
        score_bounds=np.unique(np.concatenate(bounds)).tolist(),
        max_class_series=max_class_series,
        confidence_at_most=shares_at_most(manifest.reference.histograms.get("confidence")),
    )


def shares_at_most(histogram: Histogram | None) -> dict[float, float]:
    """Return the share of images below each edge; nothing where the bundle has no histogram."""
    if histogram is None or not sum(histogram.counts):
        return {}
    shares = np.cumsum(histogram.counts) / sum(histogram.counts)
    return dict(zip(histogram.edges, shares.tolist(), strict=False))  # the last bin has no edge
