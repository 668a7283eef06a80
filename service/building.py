"""Make a loaded version ready to answer: its pipeline, its metrics and its drift monitors."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from tidegate.service.batching.lanes import Lane
from tidegate.service.bundle.store import Bundle
from tidegate.service.bundle_reference import served_model
from tidegate.service.drift.monitor import Monitor
from tidegate.service.drift_watch import DriftWatch
from tidegate.service.metrics import Metrics, ModelMetrics
from tidegate.service.observing import VersionObserver
from tidegate.service.pipeline import Pipeline
from tidegate.service.served import Served
from tidegate.service.startup import Workers


@dataclass(frozen=True, slots=True)
class Builder:
    """What all versions share."""

    workers: Workers
    metrics: Metrics
    max_class_series: int
    max_image_pixels: int

    async def build(
        self, bundle: Bundle, lane: Lane, monitor: Monitor, drift_state: Path | None
    ) -> Served:
        """Return a version that nothing observes yet; its drift state is read from the file."""
        model_metrics = await asyncio.to_thread(self._model_metrics, bundle, lane)
        watch = DriftWatch(monitor, model_metrics.drift, bundle.labels, bundle.digest, drift_state)
        await asyncio.to_thread(watch.restore)
        observer = VersionObserver(lane.statistics, model_metrics, monitor)
        pipeline = Pipeline(
            bundle,
            lane,
            self.workers.scheduler,
            observer,
            self.metrics,
            self.max_image_pixels,
            self.workers.pool,
        )
        return Served(bundle, lane, pipeline, observer, monitor, model_metrics, watch)

    def _model_metrics(self, bundle: Bundle, lane: Lane) -> ModelMetrics:
        """Takes a tenth of a second with 1,000 classes."""
        return ModelMetrics(served_model(bundle, lane.engine.info, self.max_class_series))
