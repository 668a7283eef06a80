"""The text of a scrape; lines of series that did not change are kept from the last one.

With 1,000 classes the library formats 3,700 lines in tens of milliseconds, and holds the
interpreter meanwhile. Here a series with the same value is not formatted again, and a scrape is
made in slices, so that the event loop can answer requests in between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from prometheus_client.values import MutexValue

SLICE_S = 0.0005  # how long a scrape may keep the event loop
_CHECK_EVERY = 16  # series between two looks at the clock
_END = "# EOF\n"  # of OpenMetrics

Declared = Counter | Gauge | Histogram
_number = cast(Callable[[float], str], floatToGoString)  # it has no types


class ModelRegistries(Collector):
    """One registry per loaded version, whose families are merged by name.

    A version is then removed at once with all its series, and its histograms of scores can have
    buckets of their own.
    """

    def __init__(self) -> None:
        self.registries: tuple[CollectorRegistry, ...] = ()  # replaced: scrapes run meanwhile

    def add(self, registry: CollectorRegistry) -> None:
        """Include a registry."""
        self.registries += (registry,)

    def remove(self, registry: CollectorRegistry) -> None:
        """Leave out a registry."""
        self.registries = tuple(other for other in self.registries if other is not registry)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the families come and go."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the families of all registries, merged by name."""
        families: dict[str, Metric] = {}
        for registry in self.registries:
            for family in registry.collect():
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples.extend(family.samples)
        return families.values()


class Exposition:
    """Formats a registry as the library would, in both formats.

    Metrics may change meanwhile, on any thread. The lines of one series are read together.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._families: dict[Declared, _Family] = {}

    def render(self, *, openmetrics: bool) -> bytes:
        """Return the text at once."""
        return "".join(self._pieces(self._read_host(), openmetrics)).encode()

    async def render_in_slices(self, *, openmetrics: bool) -> bytes:
        """Return the text, and give way to the event loop after every SLICE_S.

        A thread reads what belongs to the host (/proc, GPUs), because that may block.
        """
        host = await asyncio.to_thread(self._read_host)
        pieces: list[str] = []
        started = time.perf_counter()
        for piece in self._pieces(host, openmetrics):
            pieces.append(piece)
            if len(pieces) % _CHECK_EVERY == 0 and time.perf_counter() - started > SLICE_S:
                await asyncio.sleep(0)
                started = time.perf_counter()
        return "".join(pieces).encode()

    def _read_host(self) -> dict[Collector, list[Metric]]:
        """Collect what is not declared here: the process, the platform, the GPUs."""
        return {
            collector: list(collector.collect())
            for collector in _collectors(self._registry)
            if not isinstance(collector, Declared | ModelRegistries)
        }

    def _pieces(self, host: dict[Collector, list[Metric]], openmetrics: bool) -> Iterator[str]:
        kept, self._families = self._families, {}  # those of hidden versions are forgotten
        for collector in _collectors(self._registry):
            if isinstance(collector, ModelRegistries):
                for metrics in _by_name(collector.registries):
                    yield from self._merged(metrics, kept, openmetrics)
            elif isinstance(collector, Declared):
                yield from self._merged([collector], kept, openmetrics)
            elif collector in host:
                yield _format(host[collector], openmetrics)
        if openmetrics:
            yield _END

    def _merged(
        self, metrics: Sequence[Declared], kept: dict[Declared, _Family], openmetrics: bool
    ) -> Iterator[str]:
        """Yield the header of a family, and the series of every metric with its name."""
        for place, metric in enumerate(metrics):
            family = kept.get(metric) or _Family(metric)
            self._families[metric] = family
            if place == 0:
                yield family.headers[openmetrics]
            yield from family.series(openmetrics)


class _Family:
    """The header of a metric in both formats, and its series as they were formatted last."""

    def __init__(self, metric: Declared) -> None:
        self._metric = metric
        self._series: dict[Sequence[str], _Series] = {}  # by label values
        described = list(metric.describe())
        self.headers = {form: _format(described, form) for form in (False, True)}

    def series(self, openmetrics: bool) -> Iterator[str]:
        children = _children(self._metric)
        if len(self._series) > len(children):
            self._series = {key: self._series[key] for key, _ in children if key in self._series}
        for key, child in children:
            series = self._series.get(key)
            if series is None or series.child is not child:  # new, or cleared and set again
                series = self._series[key] = _Series(self._metric, child)
            yield series.text(openmetrics)


class _Series:
    """The lines of one child, which for a histogram are its buckets, count and sum."""

    __slots__ = (
        "_count_alone",
        "_exemplary",
        "_labels",
        "_read",
        "_starts",
        "_text",
        "_values",
        "child",
    )

    def __init__(self, metric: Declared, child: Declared) -> None:
        self.child = child
        self._labels = dict(zip(metric._labelnames, child._labelvalues, strict=False))
        self._read: Callable[[], list[float]] = _reader(child)
        self._exemplary = _exemplary(child)
        self._count_alone = isinstance(child, Histogram) and child._upper_bounds[0] < 0
        lines = self._format(openmetrics=False).removesuffix("\n").split("\n")
        self._starts = [line.rpartition(" ")[0] + " " for line in lines]  # without the value
        self._values: list[float] = []
        self._text = ""

    def text(self, openmetrics: bool) -> str:
        values = self._read()
        if values != self._values:
            lines = zip(self._starts, values, strict=False)  # a histogram may have no sum
            self._text = "".join([f"{start}{_number(value)}\n" for start, value in lines])
            self._values = values
        if not openmetrics:
            return self._text
        exemplars = any(value._exemplar for value in self._exemplary)
        text = self._format(openmetrics=True) if exemplars else self._text
        # OpenMetrics has no count without a sum, and no sum with negative buckets. The library
        # writes the count, and its parser then rejects the whole scrape.
        return text[: text.rindex("\n", 0, -1) + 1] if self._count_alone else text

    def _format(self, *, openmetrics: bool) -> str:
        """Return the lines as the library formats them."""
        [family] = self.child.collect()
        for place, sample in enumerate(family.samples):
            family.samples[place] = sample._replace(labels=self._labels | sample.labels)
        text = _format([family], openmetrics)
        return "".join(line + "\n" for line in text.split("\n") if line and line[0] != "#")


def _reader(child: Declared) -> Callable[[], list[float]]:
    """Return a function that reads the values of a child's lines, in the library's order."""
    if isinstance(child, Histogram):
        return partial(_read_histogram, child)
    return partial(_read_number, child)


def _read_histogram(child: Histogram) -> list[float]:
    cumulative = list(accumulate(bucket.get() for bucket in child._buckets))
    return [*cumulative, cumulative[-1], child._sum.get()]


def _read_number(child: Counter | Gauge) -> list[float]:
    if "_child_samples" in vars(child):  # a gauge with a function, since whenever it was set
        return [sample.value for sample in child._child_samples()]
    return [child._value.get()]


def _exemplary(child: Declared) -> list[MutexValue]:
    """Return the values that may have an exemplar."""
    if isinstance(child, Histogram):
        return list(child._buckets)
    return [child._value] if isinstance(child, Counter) else []


def _children(metric: Declared) -> list[tuple[Sequence[str], Declared]]:
    """Return the children by label values; without labels, the metric itself."""
    if not metric._labelnames:
        return [((), metric)]
    with metric._lock:
        return list(metric._metrics.items())  # type: ignore[arg-type]  # they have its class


def _collectors(registry: CollectorRegistry) -> list[Collector]:
    return list(registry._collector_to_names)  # in the order of registration


def _by_name(registries: Iterable[CollectorRegistry]) -> Iterable[list[Declared]]:
    families: dict[str, list[Declared]] = {}
    for registry in registries:
        for collector in _collectors(registry):
            if isinstance(collector, Declared):
                families.setdefault(collector._name, []).append(collector)
    return families.values()


def _format(families: list[Metric], openmetrics: bool) -> str:
    """Return families as the library formats them, without the end mark."""
    form = generate_openmetrics if openmetrics else generate_latest
    return form(_These(families)).decode().removesuffix(_END)


class _These(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
