"""The phases of a service (starting, ready, draining, failed) and the transitions between them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tidegate.service.bundle.store import Bundle
from tidegate.service.bundle_reference import served_model
from tidegate.service.drift.monitor import Monitor
from tidegate.service.drift_watch import DriftWatch
from tidegate.service.errors import Draining, NotReady
from tidegate.service.metrics import Metrics, ModelMetrics
from tidegate.service.nvml import watch_gpus
from tidegate.service.pipeline import Classification
from tidegate.service.review.answered import Answered
from tidegate.service.review.image_store import ImageStore, ReviewConfig
from tidegate.service.review.recent_answers import RecentAnswers
from tidegate.service.startup import Served, ServingConfig, prepare, serve_with

log = logging.getLogger(__name__)

_SAVE_S = 5.0  # for the drift monitors' last save: a network disk may hang


class Phase(Enum):
    """The phase of a service."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """The settings of the service."""

    bundle: Path
    serving: ServingConfig
    max_class_series: int
    drift_run_length: int
    drift_state: Path | None
    review: ReviewConfig | None
    trusted_keys: Path | None = None  # a folder; None: a bundle need not be signed


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
        self._images: ImageStore | None = None
        if config.review is not None:
            self._images = ImageStore(
                config.review, metrics.reviewed, on_death=self.fail_from_thread
            )
        self.answers = RecentAnswers(self._images)

    async def start(self) -> None:
        """Prepare the model, start its threads, and become ready.

        Raises BundleRefused, KeyUnusable or EngineUnavailable.
        """
        self._loop = asyncio.get_running_loop()
        config = self._config
        prepared = await asyncio.to_thread(
            prepare,
            config.bundle,
            config.trusted_keys,
            config.serving.engine,
            config.serving.max_image_pixels,
        )
        bundle, info = prepared.bundle, prepared.warm.engine.info
        model_metrics = ModelMetrics(
            self._metrics.registry, served_model(bundle, info, config.max_class_series)
        )
        if info.device != "cpu":
            watch_gpus(self._metrics.registry)
        monitor = await asyncio.to_thread(Monitor, prepared.reference, config.drift_run_length)
        watch = DriftWatch(
            monitor, model_metrics.drift, bundle.labels, bundle.digest, config.drift_state
        )
        await asyncio.to_thread(watch.restore)
        self.served = serve_with(
            prepared, config.serving, self._metrics, model_metrics, monitor, self
        )
        self._watch = watch
        self._watching = asyncio.create_task(watch.run())
        self._watching.add_done_callback(self._on_watch_end)
        if self.phase is Phase.STARTING:
            self.phase = Phase.READY

    def remember(
        self, request_id: str, image: bytes, result: Classification, bundle: Bundle
    ) -> None:
        """Keep an answer for feedback, and its image if it is selected for review."""
        manifest, top = bundle.manifest, result.predictions[0]
        answered = Answered(
            request_id=request_id,
            decision=result.verdict.decision,
            class_id=top.class_id,
            label=top.label,
            probability=top.probability,
            p_value=result.verdict.p_value,
            model=manifest.name,
            version=manifest.version,
            digest=bundle.digest,
        )
        self.answers.remember(image, answered)

    def require(self) -> Served:
        """Return the served model. Raises NotReady or Draining if there is none yet."""
        if self.served is None:
            if self.phase is Phase.DRAINING:
                raise Draining("The service is shutting down.")
            raise NotReady("The model is still warming up.")
        return self.served

    @property
    def unready_reason(self) -> str:
        """Return why a started service should not receive traffic; "" if it should."""
        return self._watch.failure if self._watch is not None else ""

    def begin_drain(self) -> None:
        """Report not ready, and keep serving while traffic moves to other replicas."""
        if self.phase is not Phase.FAILED:
            self.phase = Phase.DRAINING

    def fail(self, reason: str) -> None:
        """Report not ready and set `failed`, which ends the process."""
        log.critical("service failed: %s", reason)
        self.phase = Phase.FAILED
        self.failure = reason
        self.failed.set()

    def fail_from_thread(self, reason: str) -> None:
        """Call `fail` from any thread: the `on_death` of the threads that the service owns."""
        if self._loop is None:  # nothing waits for `failed` yet
            self.fail(reason)
        else:
            with contextlib.suppress(RuntimeError):  # the loop has closed: the process is ending
                self._loop.call_soon_threadsafe(self.fail, reason)

    async def close(self, timeout_s: float) -> bool:
        """Stop the engine's threads; return False if one does not end within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        ended = self.served is None or await self._close_served(self.served, deadline)
        if self._images is not None:
            await asyncio.to_thread(self._images.close, _left_s(deadline))
        return ended

    def _on_watch_end(self, watching: asyncio.Task[None]) -> None:
        """Fail, as for a thread that ends unexpectedly: the watch itself catches every error."""
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
            if served.all_cores_engine is not None:
                served.all_cores_engine.close()
        return ended


def _left_s(deadline: float) -> float:
    """Return the seconds to a deadline, but at least one, which is enough for idle threads."""
    return max(1.0, deadline - time.monotonic())
