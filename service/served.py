"""One loaded version of a model: its bundle, its lane, its pipeline and its drift monitors."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tidegate.service.batching.lanes import Lane
from tidegate.service.bundle.store import Bundle
from tidegate.service.drift.monitor import Monitor
from tidegate.service.drift_watch import DriftWatch
from tidegate.service.metrics import ModelMetrics
from tidegate.service.observing import VersionObserver
from tidegate.service.pipeline import Pipeline


@dataclass(slots=True, eq=False)
class Version:
    """A version that answers requests, or did so and may do so again."""

    bundle: Bundle
    lane: Lane
    pipeline: Pipeline

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.bundle.manifest.name

    @property
    def version(self) -> str:
        """Return the version."""
        return self.bundle.manifest.version

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.bundle.digest[:12]})"


@dataclass(slots=True, eq=False)
class Served(Version):
    """A version with what observes its answers."""

    observer: VersionObserver
    monitor: Monitor
    metrics: ModelMetrics
    watch: DriftWatch
    watching: asyncio.Task[None] | None = field(default=None, init=False)  # while it is in use
