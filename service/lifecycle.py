"""Phases of a service (starting, ready, draining, failed) and what leads from one to the next."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

import numpy as np

from service import memory
from service.batching.decoders import Decoders
from service.batching.latency import LatencyModel
from service.batching.policy import Limits
from service.batching.scheduler import Scheduler
from service.bundle.golden import REDUCED_TOLERANCE, TOLERANCE, check_golden
from service.bundle.manifest import Histogram
from service.bundle.store import Bundle, open_bundle, read_embedding
from service.cpu import usable_cores
from service.drift.embedding import Embedding
from service.drift.monitor import Monitor
from service.drift.reference import Bins, Reference
from service.drift_watch import DriftWatch
from service.engines.base import Engine
from service.engines.choose import EngineConfig, WarmEngine, open_engine
from service.errors import BundleRefused, Draining, NotReady
from service.gpu import watch_gpus
from service.imaging.decoder_pool import DecoderPool
from service.imaging.pillow_resize import RESIZES_BY
from service.metrics import Metrics, ModelMetrics, ServedModel
from service.pipeline import Classification, Pipeline, Upload
from service.review.store import ReviewConfig, ReviewStore

log = logging.getLogger(__name__)

_MOST_LARGE_DECODERS = 4  # processes of some 50 MB each
_SAVE_S = 5.0  # for the drift monitors' last save: a network disk may hang
_MOST_CONFUSED = 50  # classes: beyond, a bundle seals its commonest confusions alone
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
        bundle, warm, pool = await asyncio.to_thread(_prepare, self._config)
        engine = warm.engine
        decoders = _decoders(self._config.decode_threads, engine, self.fail_from_thread)
        large_decoders = None
        if pool is not None:
            large_decoders = Decoders(
                pool.processes, self.fail_from_thread, name="decode-large", nice=0
            )
        scheduler = Scheduler(
            engine,
            LatencyModel(warm.latency_s, warm.alone_s),
            Limits(
                max_batch_size=max(warm.latency_s),
                max_queue=self._config.max_queue,
                side_by_side=_side_by_side(engine),
            ),
            wide=warm.wide,
            decoders=decoders,
            large_decoders=large_decoders,
            engine_timeout_s=self._config.engine_timeout_s,
            metrics=self._metrics,
            on_failure=self.fail,
        )
        self._metrics.follow_queue(lambda: scheduler.waiting)
        model_metrics = ModelMetrics(
            self._metrics.registry, _served_model(bundle, engine, self._config.max_class_series)
        )
        if engine.info.device != "cpu":
            watch_gpus(self._metrics.registry)
        monitor = Monitor(_drift_reference(bundle), self._config.drift_run_length)
        pipeline = Pipeline(
            bundle,
            scheduler,
            self._metrics,
            model_metrics,
            monitor,
            self._config.max_image_pixels,
            pool,
        )
        self.served = Served(
            bundle=bundle,
            engine=engine,
            wide=warm.wide,
            decoders=decoders,
            large_decoders=large_decoders,
            pool=pool,
            scheduler=scheduler,
            pipeline=pipeline,
            monitor=monitor,
        )
        watch = DriftWatch(monitor, model_metrics.drift, bundle.digest, self._config.drift_state)
        watch.restore()
        self._watch = watch
        self._watching = asyncio.create_task(watch.run())
        self._watching.add_done_callback(self._on_watch_end)
        if self.phase is Phase.STARTING:
            self.phase = Phase.READY

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

    def stop_admitting(self) -> None:
        """Refuse what arrives from now on; what was admitted is finished."""
        if self.served is not None:
            self.served.scheduler.draining = True

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
        ended = await self._close_served(timeout_s)
        if self.review is not None:
            await asyncio.to_thread(self.review.close, max(1.0, deadline - time.monotonic()))
        return ended

    def _on_watch_end(self, watching: asyncio.Task[None]) -> None:
        """Give up, as for a thread that ends unasked: the watch itself catches every error."""
        error = None if watching.cancelled() else watching.exception()
        self.fail(f"drift monitoring ended unexpectedly: {error!r}")

    async def _close_served(self, timeout_s: float) -> bool:
        if self.served is None:
            return True
        if self._watching is not None:
            self._watching.remove_done_callback(self._on_watch_end)
            self._watching.cancel()
            await asyncio.wait({self._watching}, timeout=min(_SAVE_S, timeout_s))
        for decoders in (self.served.decoders, self.served.large_decoders):
            if decoders is not None:
                decoders.close()
        if self.served.pool is not None:
            self.served.pool.close()
        ended = await asyncio.to_thread(self.served.scheduler.close, timeout_s)
        if ended:
            self.served.engine.close()
            if self.served.wide is not None:
                self.served.wide.close()
        return ended


def _side_by_side(engine: Engine) -> int:
    """Return how many slots do not slow each other down: cores, or GPUs."""
    if engine.info.device == "cpu":
        return engine.slots
    return len({engine.device_of(slot) for slot in range(engine.slots)})


def _prepare(config: ServiceConfig) -> tuple[Bundle, WarmEngine, DecoderPool | None]:
    bundle = open_bundle(config.bundle)
    manifest = bundle.manifest
    log.info("opened bundle %s %s, digest %s", manifest.name, manifest.version, bundle.digest[:12])
    warm = open_engine(
        bundle.model_path, config.engine, manifest.engine.buckets, manifest.precision
    )
    probes = _pass_golden(bundle, warm.engine)
    if warm.wide is not None:
        _pass_golden(bundle, warm.wide)
    memory.use_huge_pages()
    info = warm.engine.info
    log.info(
        "warm: %s on %s, %d slots × %d threads%s, batches up to %d, %d golden probes passed, "
        "resizing by %s",
        info.runtime,
        info.device,
        warm.engine.slots,
        info.threads_per_slot,
        f" ({warm.wide.info.threads_per_slot} for an image that is alone)" if warm.wide else "",
        max(warm.latency_s),
        probes,
        RESIZES_BY,
    )
    if RESIZES_BY == "pillow":
        log.warning(
            "the compiled resize is missing, so preprocessing takes several times as long: "
            "install Tidegate where there is a C compiler, or from a wheel that was built with one"
        )
    return bundle, warm, _decoder_pool(bundle, config.max_image_pixels)


def _pass_golden(bundle: Bundle, engine: Engine) -> int:
    """Ask the golden probes of each device; returns how many there are. Raises BundleRefused."""
    task = bundle.manifest.task
    if engine.input_size != (task.height, task.width):
        raise BundleRefused(f"{bundle.path}: the graph's images are not of the manifest's size.")
    exact = engine.info.device == "cpu" or engine.info.precision == "fp32"
    first = {engine.device_of(slot): slot for slot in reversed(range(engine.slots))}
    probes = 0
    for _, slot in sorted(first.items()):
        run = partial(engine.run, slot)
        probes = check_golden(bundle, run, TOLERANCE if exact else REDUCED_TOLERANCE)
    return probes


def _decoders(threads: int, engine: Engine, on_death: Callable[[str], object]) -> Decoders | None:
    """Return decoder threads, unless the slots' own threads are the cores to decode on.

    A slot of several threads would decode on one and leave the others idle.
    """
    if not threads and engine.info.device == "cpu" and engine.info.threads_per_slot == 1:
        return None
    return Decoders(threads or usable_cores(), on_death)


def _decoder_pool(bundle: Bundle, max_image_pixels: int) -> DecoderPool | None:
    """Start the processes that decode large images: half as many as cores, so that they leave room.

    None if the system does not allow them: then large images are decoded like the others.
    """
    if sys.platform != "linux":
        return None
    processes = min(_MOST_LARGE_DECODERS, max(1, usable_cores() // 2))
    try:
        return DecoderPool(processes, bundle.manifest.preprocess, max_image_pixels)
    except (EOFError, OSError) as error:
        log.warning("large images are decoded in this process: no other can be started: %s", error)
        return None


def _served_model(bundle: Bundle, engine: Engine, max_class_series: int) -> ServedModel:
    manifest, gate, info = bundle.manifest, bundle.gate, engine.info
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


def _drift_reference(bundle: Bundle) -> Reference:
    reference, evaluation = bundle.manifest.reference, bundle.manifest.evaluation
    classes = bundle.manifest.task.classes
    confusion = None
    if evaluation is not None and classes <= _MOST_CONFUSED:
        confusion = np.zeros((classes, classes), np.int64)
        for pair in evaluation.confusions:
            confusion[pair.actual, pair.predicted] = pair.images
    embedding = read_embedding(bundle)
    return Reference(
        class_fractions=np.array(reference.class_fraction),
        samples=reference.samples,
        alpha_reject=bundle.gate.alpha_reject,
        calibration_samples=bundle.gate.calibration_size,
        histograms={
            name: Bins(np.array(histogram.edges), np.array(histogram.counts, np.int64))
            for name, histogram in reference.histograms.items()
        },
        confusion=confusion,
        embedding=Embedding(**embedding, samples=reference.samples) if embedding else None,
    )
