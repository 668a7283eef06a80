"""Creates the metrics of the tables in a registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tidegate.service.metrics.tables import COUNTERS, GAUGES, HISTOGRAMS, PREFIX

M = TypeVar("M", Counter, Histogram)


def children(
    metric: M, values: Sequence[str], model: tuple[str, str, str] | tuple[()] = ()
) -> dict[str, M]:
    """Return the child of each value of the last label, so that all of them start at 0."""
    return {value: metric.labels(*model, value) for value in values}


class Declared:
    """Creates the metrics of the tables in one registry, with one prefix."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str) -> Counter:
        """Create a counter."""
        text, labels = COUNTERS[name]
        return Counter(PREFIX + name, text, labels, registry=self._registry)

    def gauge(self, name: str) -> Gauge:
        """Create a gauge."""
        text, labels = GAUGES[name]
        return Gauge(PREFIX + name, text, labels, registry=self._registry)

    def histogram(self, name: str, buckets: Sequence[float] = ()) -> Histogram:
        """Create a histogram; `buckets` are for one whose bounds are not in the table."""
        text, labels, fixed = HISTOGRAMS[name]
        return Histogram(
            PREFIX + name, text, labels, buckets=fixed or buckets, registry=self._registry
        )
