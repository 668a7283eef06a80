"""The phases of a service (starting, ready, draining, failed) and the transitions between them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tidegate.service.batching.client_shares import equal_weight
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.building import Builder
from tidegate.service.bundle.store import Bundle
from tidegate.service.catalog import Catalog, Choice
from tidegate.service.drift.monitor import Monitor
from tidegate.service.errors import Draining, NotReady
from tidegate.service.followed_files import FollowedFiles
from tidegate.service.following import Following
from tidegate.service.loaded_versions import LoadedVersions
from tidegate.service.loading import Loader
from tidegate.service.metrics import Metrics
from tidegate.service.nvml import watch_gpus
from tidegate.service.observing import Observation
from tidegate.service.pipeline import Classification
from tidegate.service.reload import Reloaded, Reloader
from tidegate.service.review.answered import Answered
from tidegate.service.review.image_store import ImageStore, ReviewConfig
from tidegate.service.review.recent_answers import RecentAnswers
from tidegate.service.served import Served
from tidegate.service.startup import (
    ServingConfig,
    Workers,
    lane_of,
    prepare,
    start_decoder_pool,
    start_workers,
)
from tidegate.service.steps import Event, Steps
from tidegate.service.wanted import Source

log = logging.getLogger(__name__)


class Phase(Enum):
    """The phase of a service."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """The settings of the service."""

    source: Source
    serving: ServingConfig
    max_class_series: int
    drift_run_length: int
    review: ReviewConfig | None
    trusted_keys: Path | None = None  # a folder; None: a bundle need not be signed
    rollback_s: float = 600.0  # how long a version without an alias stays loaded
    max_loaded_versions: int = 8


class Service:
    """The served models, from warm-up to drain."""

    def __init__(
        self,
        config: ServiceConfig,
        metrics: Metrics,
        weight_of: Callable[[str], float] = equal_weight,
        followed: Sequence[FollowedFiles] = (),
    ) -> None:
        """`weight_of` returns the weight of a client in the shares of the queue.

        `followed` are files to load again whenever they change.
        """
        self._weight_of = weight_of
        self._followed = followed
        self.phase = Phase.STARTING
        self.failure = ""
        self.failed = asyncio.Event()
        self.workers: Workers | None = None
        self._reloader: Reloader | None = None  # once the first model is warm
        self._steps: Steps | None = None  # the same
        self._following: Following | None = None  # the same
        self._reload_wanted = False  # requested during the start
        self._config = config
        self._metrics = metrics
        self._loop: asyncio.AbstractEventLoop | None = None  # once started
        self._images: ImageStore | None = None
        if config.review is not None:
            self._images = ImageStore(
                config.review, metrics.reviewed, on_death=self.fail_from_thread
            )
        self.answers = RecentAnswers(self._images)
        self._on_catalog: Callable[[Scheduler, Catalog], object] = lambda *_: None
        self._on_files: Callable[[], object] = bool
        self._unready: Callable[[], str] = str

    def attach_front_ends(
        self,
        on_catalog: Callable[[Scheduler, Catalog], object],
        on_files: Callable[[], object],
        unready: Callable[[], str],
    ) -> None:
        """Call `on_catalog` whenever what is served changes.

        `on_files` is called once a file that is followed was loaded again, or refused.
        `unready` returns a further reason not to receive traffic, or "".
        """
        self._on_catalog, self._on_files, self._unready = on_catalog, on_files, unready

    async def start(self) -> None:
        """Warm up the default model, load the other versions, and become ready.

        Raises BundleRefused, ServingInvalid, KeyUnusable or EngineUnavailable.
        """
        self._loop = asyncio.get_running_loop()
        config = self._config
        wanted = await asyncio.to_thread(config.source.read)
        name, plan = wanted.plan.default, wanted.plan.models[wanted.plan.default]
        prepared = await asyncio.to_thread(
            prepare,
            wanted.folders[name, plan.stable],
            config.trusted_keys,
            config.serving.engine,
        )
        max_image_pixels = config.serving.max_image_pixels
        pool = await asyncio.to_thread(
            start_decoder_pool, max_image_pixels, config.serving.large_decoders
        )
        if prepared.warm.engine.info.device != "cpu":
            watch_gpus(self._metrics.registry)
        monitor = await asyncio.to_thread(Monitor, prepared.reference, config.drift_run_length)
        lane = lane_of(prepared, config.serving, plan.weight)
        self.workers = start_workers(
            lane, pool, config.serving, self._metrics, self, self._weight_of
        )
        builder = Builder(self.workers, self._metrics, config.max_class_series, max_image_pixels)
        first = await builder.build(
            prepared.bundle, lane, monitor, wanted.drift_states.get((name, plan.stable))
        )
        loaded = LoadedVersions(
            builder,
            Loader(config.serving.engine, config.trusted_keys, config.drift_run_length),
            rollback_s=config.rollback_s,
            most=config.max_loaded_versions,
            on_watch_end=self._on_watch_end,
        )
        reloader = Reloader(
            builder,
            loaded,
            on_difference=self.answers.keep,
            on_catalog=self._announce,
        )
        await reloader.start(first, wanted)
        self._reloader = reloader
        self._announce()
        self._steps = Steps(config.source, reloader, self._metrics)
        self._following = Following(
            config.source,
            reloader,
            self._steps,
            self._followed,
            self._metrics,
            is_ready=lambda: self.phase is Phase.READY,
            on_files=self._on_files,
        )
        self._following.start(self._on_following_end)
        if self.phase is Phase.STARTING:
            self.phase = Phase.READY
        if self._reload_wanted:
            self.request_reload()

    @property
    def catalog(self) -> Catalog:
        """Return what is served. Raises NotReady or Draining if there is nothing yet."""
        if self._reloader is None:
            if self.phase is Phase.DRAINING:
                raise Draining("The service is shutting down.")
            raise NotReady("The model is still warming up.")
        return self._reloader.catalog

    def _announce(self) -> None:
        if self._reloader is not None and self.workers is not None:
            self._on_catalog(self.workers.scheduler, self._reloader.catalog)

    def loaded(self) -> Iterator[Served]:
        """Yield every loaded version, also those that answer no requests."""
        if self._reloader is not None:
            yield from self._reloader.loaded

    def require_steps(self) -> Steps:
        """Return what promotes and rolls back. Raises NotReady or Draining."""
        self.catalog  # noqa: B018 - raises
        if self.phase is not Phase.READY or self._steps is None:
            raise Draining("The service is shutting down.")
        return self._steps

    def events(self, name: str) -> tuple[Event, ...]:
        """Return the last steps of a model's rollouts, the newest first."""
        return () if self._steps is None else self._steps.events(name)

    def choose(
        self,
        model: str = "",
        version: str = "",
        key: str = "",
        request_id: str = "",
        *,
        has_own_id: bool = True,
    ) -> Choice:
        """Return the version for a request.

        `model` is "" for the default, `version` a version, an alias or "" for the model's choice,
        which a canary's share makes by `key`, or by `request_id` if that is "". `has_own_id` says
        whether no other image has that id. Raises NotFound, NotReady or Draining.
        """
        chooser = self.catalog.model(model)
        return chooser.choose(version, key, request_id, has_own_id=has_own_id)

    def observe_feedback(self, answered: Answered, *, correct: bool) -> None:
        """Count a true class for the version that answered, and for the judge of a canary."""
        if self._reloader is None:
            return
        for served in self.loaded():
            if served.bundle.digest == answered.digest:
                served.metrics.feedback(answered.probability, correct=correct)
        model = self._reloader.catalog.models.get(answered.model)
        if model is not None and model.rollout is not None:
            model.rollout.observe_feedback(answered.request_id, answered.digest, agrees=correct)

    async def reload(self) -> dict[str, Reloaded]:
        """Read what shall be served, and serve it; return what was done, by model.

        Raises ServingInvalid, BundleRefused, NotReady or Draining.
        """
        if self._following is None:
            self.catalog  # noqa: B018 - raises
            raise NotReady("The model is still warming up.")
        return await self._following.reload()

    def request_reload(self) -> None:
        """Reload in the background, once started, and log what is wrong: for SIGHUP."""
        if self.phase is Phase.STARTING or self._following is None:
            self._reload_wanted = True
        else:
            self._following.request_reload()

    def remember(
        self, request_id: str, image: bytes, result: Classification, bundle: Bundle
    ) -> None:
        """Keep an answer for feedback, and its image if it is selected for review."""
        self.remember_observed(request_id, image, result.observation, bundle)

    def remember_observed(
        self,
        request_id: str,
        image: bytes,
        seen: Observation,
        bundle: Bundle,
        *,
        is_wanted: bool = False,
    ) -> None:
        """Do the same for what was observed; with `is_wanted` the image was selected before."""
        manifest = bundle.manifest
        answered = Answered(
            request_id=request_id,
            decision=seen.decision,
            class_id=seen.class_id,
            label=bundle.labels[seen.class_id],
            probability=seen.probability,
            p_value=seen.p_value,
            model=manifest.name,
            version=manifest.version,
            digest=bundle.digest,
        )
        self.answers.remember(image, answered, manifest.task.classes, is_wanted=is_wanted)

    @property
    def unready_reason(self) -> str:
        """Return why a started service should not receive traffic; "" if it should."""
        if self._reloader is None:
            return ""
        models = self._reloader.catalog.models.values()
        failures = [one.watch.failure for model in models for one in model.versions.values()]
        return next(filter(None, failures), "") or self._unready()

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
        ended = await self._close_models(deadline)
        if self._images is not None:
            await asyncio.to_thread(self._images.close, _left_s(deadline))
        return ended

    def _on_watch_end(self, watching: asyncio.Task[None]) -> None:
        """Fail, as for a thread that ends unexpectedly: the watch itself catches every error."""
        error = None if watching.cancelled() else watching.exception()
        self.fail(f"drift monitoring ended unexpectedly: {error!r}")

    def _on_following_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self.fail(f"following the files ended unexpectedly: {error!r}")

    async def _close_models(self, deadline: float) -> bool:
        if self._following is not None:
            self._following.stop()
        if self._reloader is not None:
            await self._reloader.close(_left_s(deadline))
        if self.workers is None:
            return True
        ended = await asyncio.to_thread(self.workers.close, _left_s(deadline))
        if ended and self._reloader is not None:
            for served in self._reloader.loaded:
                served.lane.close()
        return ended


def _left_s(deadline: float) -> float:
    """Return the seconds to a deadline, but at least one, which is enough for idle threads."""
    return max(1.0, deadline - time.monotonic())
