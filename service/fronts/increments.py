"""What a front end has counted since it last said so: the other side adds it to its own metrics.

So a scrape needs no merging, no counter falls when a front end ends, and what it had counted stays.
Gauges that count what is in progress are added likewise, and taken back when the front end ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from prometheus_client import Counter, Gauge, Histogram

from tidegate.service.metrics import Metrics

# (family, label values, increments): of a histogram those of its buckets, then of its sum
Increment = tuple[str, Sequence[str], Sequence[float]]


class _Value(Protocol):
    """A number of prometheus_client, whose methods have no types."""

    def get(self) -> float: ...

    def inc(self, amount: float) -> None: ...


@dataclass(frozen=True, slots=True)
class _Series:
    family: str
    labels: tuple[str, ...]
    values: tuple[_Value, ...]
    rises: bool  # it is no gauge

    def was_forgotten(self, now: Sequence[float], before: Sequence[float]) -> bool:
        """Return whether it was removed, and began again at 0."""
        return self.rises and any(a < b for a, b in zip(now, before, strict=True))


class Counting:
    """Reads the increments of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._told: dict[tuple[str, tuple[str, ...]], list[float]] = {}

    def take(self) -> list[Increment]:
        """Return what was counted since the last call, without what has not changed."""
        increments: list[Increment] = []
        self._metrics.count()
        for series in _series(self._metrics):
            now = [value.get() for value in series.values]
            before = self._told.get((series.family, series.labels))
            if now != before:
                self._told[series.family, series.labels] = now
                if before is None or series.was_forgotten(now, before):
                    before = [0.0] * len(now)
                change = [a - b for a, b in zip(now, before, strict=True)]
                if any(change):
                    increments.append((series.family, series.labels, change))
        return increments


class Adding:
    """Adds the increments of one front end to the metrics of this process."""

    def __init__(self, metrics: Metrics) -> None:
        self._families = {metric._name: metric for metric in metrics.shared()}
        self._gauges: dict[tuple[str, tuple[str, ...]], float] = {}

    def add(self, increments: Sequence[Increment]) -> None:
        """Add increments. Raises ValueError for a family or a shape that is not known."""
        for family, labels, change in increments:
            metric = self._families.get(family)
            if metric is None:
                raise ValueError(f"no metric {family}")
            child = metric.labels(*labels) if labels else metric
            if isinstance(child, Gauge):
                key = family, tuple(labels)
                self._gauges[key] = self._gauges.get(key, 0.0) + change[0]
            for value, more in zip(_values(child), change, strict=True):
                value.inc(more)

    def end(self) -> None:
        """Take back the gauges: what was in progress there is no longer."""
        for (family, labels), value in self._gauges.items():
            metric = self._families[family]
            child = metric.labels(*labels) if labels else metric
            _values(child)[0].inc(-value)
        self._gauges.clear()


def _series(metrics: Metrics) -> Iterator[_Series]:
    for metric in metrics.shared():
        for labels, child in _children(metric).items():
            yield _Series(metric._name, labels, _values(child), not isinstance(child, Gauge))


def _children(
    metric: Counter | Gauge | Histogram,
) -> Mapping[tuple[str, ...], Counter | Gauge | Histogram]:
    if not metric._labelnames:
        return {(): metric}
    with metric._lock:
        return dict(metric._metrics)  # type: ignore[arg-type]  # they have its class


def _values(child: Counter | Gauge | Histogram) -> tuple[_Value, ...]:
    if isinstance(child, Histogram):
        return cast(tuple[_Value, ...], (*child._buckets, child._sum))
    return (cast(_Value, child._value),)
