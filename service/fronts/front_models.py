"""The models as a front end has them: what chooses, decodes and answers, without an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, cast

from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.policy import Limits
from tidegate.service.batching.remote import Remote
from tidegate.service.bundle.store import Bundle
from tidegate.service.catalog import STABLE, Catalog, Choice, Model
from tidegate.service.engines.base import EngineInfo, TopUp
from tidegate.service.errors import Draining, NotReady, TidegateError
from tidegate.service.fronts.front_observer import FrontObserver, Reports
from tidegate.service.fronts.published import CatalogFacts, LaneChange, LaneFacts, ModelFacts
from tidegate.service.imaging.decoder_pool import DecoderPool
from tidegate.service.metrics import Metrics
from tidegate.service.observing import Tag
from tidegate.service.pipeline import SAMPLE_EVERY_S, Classification, Pipeline, Upload
from tidegate.service.rollout.routing import chooses_canary, chooses_shadow
from tidegate.service.rollouts import failure_of, salt_of
from tidegate.service.served import Version
from tidegate.service.shadowing import MAX_SHADOW_IMAGE_BYTES
from tidegate.service.types import Pixels


@dataclass(frozen=True, slots=True)
class EngineElsewhere:
    """Describes an engine that another process has."""

    info: EngineInfo
    slots: int
    max_batch_size: int
    input_size: tuple[int, int]

    def device_of(self, slot: int) -> int:
        """Return 0: which device it is matters only where the engine runs."""
        return 0

    def run(self, slot: int, images: Sequence[Pixels], top_up: TopUp | None = None) -> NoReturn:
        """Raise: it runs in another process."""
        raise RuntimeError("the engine is in another process")

    def parts_s(self, slot: int) -> Mapping[str, float]:
        """Return nothing."""
        return {}

    def keep(self, largest: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class FrontParts:
    """What all versions of a front end share."""

    remote: Remote
    metrics: Metrics
    reports: Reports
    pool: DecoderPool | None
    max_image_pixels: int
    max_queue: int
    deadline_s: float
    front_ends: int


_Trial = tuple[Version, float, str]  # with its share and its salt


class FrontRollout:
    """Chooses the versions of one model's requests; another process observes the answers."""

    def __init__(
        self, facts: ModelFacts, versions: Mapping[int, Version], reports: Reports
    ) -> None:
        self._stable = versions[facts.versions[facts.aliases[STABLE]]]
        self._reports = reports
        self._canary: _Trial | None = None
        self._shadow: _Trial | None = None
        if facts.canary is not None:
            version = versions[facts.canary.number]
            self._canary = version, facts.canary.share, salt_of(version)
        if facts.shadow is not None:
            version = versions[facts.shadow.number]
            self._shadow = version, facts.shadow.share, salt_of(version)

    def choose(self, key: str) -> Version:
        """Return the version that answers a request with this key."""
        if self._canary is not None:
            version, share, salt = self._canary
            if chooses_canary(key, share, salt):
                return version
        return self._stable

    async def classify(
        self, served: Version, upload: Upload, request_id: str, key: str
    ) -> Classification:
        """Classify an image with the version that was chosen by `key`, and report the answer."""
        tag = Tag(request_id, key, self._is_shadowed(served, upload, request_id))
        try:
            return await served.pipeline.classify(upload, tag)
        except TidegateError as error:
            if (kind := failure_of(error)) is not None:
                self._reports.failure(served.lane, kind, upload.received, key)
            raise
        except Exception:  # a bug, answered 500
            self._reports.failure(served.lane, "error", upload.received, key)
            raise

    def _is_shadowed(self, served: Version, upload: Upload, request_id: str) -> bool:
        if self._shadow is None or served is not self._stable or upload.pixels is not None:
            return False
        _, share, salt = self._shadow
        small = len(upload.image) <= MAX_SHADOW_IMAGE_BYTES
        return small and chooses_shadow(request_id, share, salt)


class FrontModels:
    """Takes the place of `Service` for the routes that classify. Used on the event loop."""

    def __init__(self) -> None:
        self._parts: FrontParts | None = None
        self._catalog: Catalog | None = None
        self._versions: dict[int, Version] = {}  # by the number of the lane
        self._leaving: dict[int, Version] = {}  # no longer in the catalog
        self._awaited: CatalogFacts | None = None  # has a version that is not open

    def begin(self, parts: FrontParts) -> None:
        """Use these parts for all versions."""
        self._parts = parts

    def open(self, facts: LaneFacts) -> None:
        """Add a version, which a later catalog uses."""
        assert self._parts is not None  # noqa: S101 - the parts are sent first
        parts, bundle, task = self._parts, facts.bundle, facts.bundle.manifest.task
        changing = facts.changing
        latency = LatencyModel(
            dict(zip(changing.learned.buckets, changing.learned.predictions, strict=True))
        )
        latency.adopt(changing.learned)
        engine = EngineElsewhere(
            facts.engine, facts.engine_slots, changing.max_batch_size, (task.height, task.width)
        )
        limits = Limits(
            changing.max_batch_size, parts.max_queue, facts.side_by_side, parts.deadline_s
        )
        lane = Lane(engine, latency, limits, None, bundle.manifest.name, changing.weight)
        observer = FrontObserver(parts.remote, parts.reports, lane, facts)
        pipeline = Pipeline(
            bundle,
            lane,
            parts.remote,
            observer,
            parts.metrics,
            parts.max_image_pixels,
            parts.pool,
            SAMPLE_EVERY_S * parts.front_ends,
        )
        parts.reports.open(lane, facts.number)
        self._versions[facts.number] = Version(bundle, lane, pipeline)
        if self._awaited is not None:
            self.follow(self._awaited)

    def follow(self, facts: CatalogFacts) -> None:
        """Serve a catalog. Versions that it does not have are closed once they are idle."""
        assert self._parts is not None  # noqa: S101 - the parts are sent first
        reports = self._parts.reports
        used = {number for model in facts.models.values() for number in model.versions.values()}
        for number in used & self._leaving.keys():
            self._versions[number] = self._leaving.pop(number)
        self._awaited = None if used <= self._versions.keys() else facts
        if self._awaited is not None:  # it was closed just now, and will be opened again
            return
        models = {name: self._model(name, one, reports) for name, one in facts.models.items()}
        self._catalog = Catalog(facts.default, models)
        for number in self._versions.keys() - used:
            self._leaving[number] = self._versions.pop(number)

    def change(self, changes: Mapping[int, LaneChange]) -> None:
        """Take what has changed of lanes."""
        for number, change in changes.items():
            version = self._versions.get(number)
            if version is not None:
                lane = version.lane
                lane.latency.adopt(change.learned)
                lane.weight = change.weight
                lane.limits = replace(lane.limits, max_batch_size=change.max_batch_size)

    def idle(self) -> list[int]:
        """Close the versions that left the catalog and have no request; return their lanes.

        What was sent for them has arrived: records and messages may overtake each other.
        """
        if not self._leaving:
            return []
        assert self._parts is not None  # noqa: S101 - a version was open
        uses = self._parts.remote.uses
        closed = [n for n, one in self._leaving.items() if one.lane.is_idle and not uses(one.lane)]
        for number in closed:
            self._parts.reports.close(self._leaving.pop(number).lane)
        return closed

    @property
    def catalog(self) -> Catalog:
        """Return what is served. Raises NotReady or Draining if there is nothing yet."""
        if self._catalog is None:
            raise NotReady("The model is still warming up.")
        if self._parts is not None and self._parts.remote.draining:
            raise Draining("The service is shutting down.")
        return self._catalog

    def choose(
        self,
        model: str = "",
        version: str = "",
        key: str = "",
        request_id: str = "",
        *,
        has_own_id: bool = True,
    ) -> Choice:
        """Return the version for a request; see `Service.choose`."""
        chooser = self.catalog.model(model)
        return chooser.choose(version, key, request_id, has_own_id=has_own_id)

    def remember(
        self, request_id: str, image: bytes, result: Classification, bundle: Bundle
    ) -> None:
        """Do nothing: the answer was reported when it was observed."""

    def _model(self, name: str, facts: ModelFacts, reports: Reports) -> Model:
        versions = {version: self._versions[number] for version, number in facts.versions.items()}
        rollout = None
        if facts.canary is not None or facts.shadow is not None:
            rollout = FrontRollout(facts, self._versions, reports)
        # A `Model` with what answers, and without what observes: no route here asks for that.
        return Model(
            name, facts.plan, cast(Any, versions), facts.aliases, cast(Any, rollout), refused={}
        )
