"""What is learned from an answered image, and by whom: statistics, metrics and drift monitors.

The pipeline that answers an image may run in another process than what observes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from tidegate.service.batching.statistics import Statistics
from tidegate.service.batching.tickets import Ticket
from tidegate.service.drift.duplicates import Fingerprint
from tidegate.service.drift.monitor import Monitor
from tidegate.service.metrics import ModelMetrics
from tidegate.service.types import Decision, Float32


class Tag(NamedTuple):
    """What an image is known by, for those who observe its answer."""

    image_id: str = ""
    key: str | None = None  # by which a rollout chose its version; None if no rollout observes it
    is_shadowed: bool = False  # whether the shadow computes it again


UNTAGGED = Tag()


class Observation(NamedTuple):
    """What is learned from an answer about the model and its traffic. Durations in seconds.

    A tuple, because one is made per image, and a frozen class takes three times as long to make.
    """

    tag: Tag
    client: str
    received: float  # time.monotonic() when the last byte had arrived
    time: float  # time.time() of the answer
    class_id: int
    probability: float
    decision: Decision
    p_value: float
    scores: tuple[float, ...]  # in the order of the graph's columns
    fingerprint: Fingerprint
    features: Float32  # [D]
    total_s: float
    queue_s: float
    decode_s: float
    engine_s: float
    gates_s: float


class Observer(Protocol):
    """Observes the images of one version. Used on the event loop."""

    @property
    def watches_inputs(self) -> bool:
        """Return whether `sampled` is of use."""
        ...

    def answered(self, ticket: Ticket, image: bytes, seen: Observation) -> None:
        """Observe an answer, while its ticket is not released yet."""
        ...

    def failed(self, seconds: float) -> None:
        """Observe an image that was not answered, so long after its last byte."""
        ...

    def sampled(self, statistics: Mapping[str, float]) -> None:
        """Observe the input statistics of one image."""
        ...


class VersionObserver:
    """Updates the statistics, the metrics and the drift monitors of one version."""

    def __init__(
        self,
        statistics: Statistics,
        metrics: ModelMetrics,
        monitor: Monitor,
    ) -> None:
        self._statistics = statistics
        self._metrics = metrics
        self._monitor = monitor

    @property
    def watches_inputs(self) -> bool:
        """Return whether the bundle has a reference of inputs."""
        return self._monitor.watches_inputs

    def answered(self, ticket: Ticket | None, image: bytes, seen: Observation) -> None:
        """Count an answer."""
        self._statistics.answer(seen.total_s, seen.queue_s, seen.decode_s, seen.engine_s)
        self._statistics.gates.add(seen.gates_s)
        self._metrics.decided(seen.decision, seen.p_value, seen.scores)
        if seen.decision != "reject":
            self._metrics.predicted(seen.class_id, seen.probability)
        self._monitor.observe(
            seen.class_id,
            seen.probability,
            seen.p_value,
            seen.features,
            rejected=seen.decision == "reject",
            time=seen.time,
            client=seen.client,
            fingerprint=seen.fingerprint,
        )

    def failed(self, seconds: float) -> None:
        """Count an image that was not answered."""
        self._statistics.failed.add(seconds)

    def sampled(self, statistics: Mapping[str, float]) -> None:
        """Pass input statistics to the drift monitors."""
        self._monitor.observe_inputs(statistics)
