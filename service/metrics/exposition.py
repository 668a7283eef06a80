"""The text of a scrape; lines of series that did not change are kept from the last one.

With 1,000 classes the library formats 3,700 lines in tens of milliseconds, and holds the
interpreter meanwhile. Here all values of a metric are read in one go, a series with the same values
is not formatted again, and a scrape is made in slices with pauses, in which the event loop answers
requests and other threads get the interpreter.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, compress
from operator import attrgetter, ne
from typing import cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from prometheus_client.values import MutexValue

SLICE_S = 0.0005  # how long a scrape may keep the event loop
PAUSE_S = 0.001  # after each slice; without one no other thread would get the interpreter
_END = b"# EOF\n"  # of OpenMetrics

Declared = Counter | Gauge | Histogram
_DECLARED = frozenset({Counter, Gauge, Histogram})  # isinstance takes microseconds: a protocol
_number = cast(Callable[[float], str], floatToGoString)  # it has no types
# Thousands of cells are read with `map`, which takes a third of the time of a loop.
_value_of = attrgetter("_value")
_exemplar_of = attrgetter("_exemplar")


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
        self._host: dict[tuple[str, bool], tuple[Metric, bytes]] = {}  # by name and format

    def render(self, *, openmetrics: bool) -> bytes:
        """Return the text at once."""
        return b"".join(self._pieces(self._read_host(), openmetrics))

    async def render_in_slices(self, *, openmetrics: bool) -> bytes:
        """Return the text, and give way for PAUSE_S after every SLICE_S.

        A thread reads what belongs to the host (/proc, GPUs), because that may block.
        """
        host = await asyncio.to_thread(self._read_host)
        pieces: list[bytes] = []
        started = time.perf_counter()
        for piece in self._pieces(host, openmetrics):
            pieces.append(piece)
            if time.perf_counter() - started > SLICE_S:
                await asyncio.sleep(PAUSE_S)
                started = time.perf_counter()
        return b"".join(pieces)

    def _read_host(self) -> dict[Collector, list[Metric]]:
        """Collect what is not declared here: the process, the platform, the GPUs."""
        return {
            collector: list(collector.collect())
            for collector in _collectors(self._registry)
            if type(collector) not in _DECLARED and type(collector) is not ModelRegistries
        }

    def _pieces(self, host: dict[Collector, list[Metric]], openmetrics: bool) -> Iterator[bytes]:
        kept, self._families = self._families, {}  # those of hidden versions are forgotten
        for collector in _collectors(self._registry):
            if type(collector) is ModelRegistries:
                for metrics in _by_name(collector.registries):
                    yield from self._merged(metrics, kept, openmetrics)
            elif type(collector) in _DECLARED:
                yield from self._merged([cast(Declared, collector)], kept, openmetrics)
            elif collector in host:
                for family in host[collector]:
                    yield self._of_host(family, openmetrics)
        if openmetrics:
            yield _END

    def _of_host(self, family: Metric, openmetrics: bool) -> bytes:
        """Return the text of a family that is not declared here; most of them never change."""
        key = family.name, openmetrics
        kept = self._host.get(key)
        if kept is None or kept[0] != family:
            kept = self._host[key] = family, _format([family], openmetrics).encode()
        return kept[1]

    def _merged(
        self, metrics: Sequence[Declared], kept: dict[Declared, _Family], openmetrics: bool
    ) -> Iterator[bytes]:
        """Yield the header of a family, and the series of every metric with its name."""
        for place, metric in enumerate(metrics):
            family = kept.get(metric) or _Family(metric)
            self._families[metric] = family
            if place == 0:
                yield family.headers[openmetrics]
            yield from family.pieces(openmetrics)


class _Family:
    """The header of a metric in both formats, and its series as they were formatted last."""

    def __init__(self, metric: Declared) -> None:
        self._metric = metric
        self._children: list[Declared] = []
        self._series: list[_Series] = []  # of the children, in their order
        self._cells: list[MutexValue] = []  # of all children, as many of each
        self._values: list[float] = []  # of the cells
        self._text = b""
        described = list(metric.describe())
        self.headers = {form: _format(described, form).encode() for form in (False, True)}

    def pieces(self, openmetrics: bool) -> Iterator[bytes]:
        """Yield the text of all series, after nothing for each one that must be formatted."""
        for _ in self._follow_children():
            yield b""
        values = self._read()
        if values != self._values:
            changed = self._changed(values)
            self._values = []  # a scrape that ends early leaves some lines new and some old
            for series, row in changed:
                series.format(row)
                yield b""
            self._values = values
            self._text = "".join([series.text for series in self._series]).encode()
        yield self._in_openmetrics() if openmetrics else self._text

    def _follow_children(self) -> Iterator[None]:
        """Create the series of new children; yields after each."""
        children = _children(self._metric)
        if children == self._children:
            return
        known = dict(zip(self._children, self._series, strict=True))
        series = []
        for child in children:
            series.append(known.get(child) or _Series(self._metric, child))
            yield
        self._children, self._series = children, series
        self._cells = [cell for child in children for cell in _cells(child)]
        self._values, self._text = [], b""

    def _read(self) -> list[float]:
        """Return the values of all cells, or what the function of a gauge returns.

        Only gauges without labels have functions here.
        """
        if "_child_samples" in vars(self._metric):
            return [sample.value for sample in self._metric._child_samples()]
        # Without their locks, which would take ten times as long: a reference is read at once.
        return list(map(_value_of, self._cells))

    def _changed(self, values: list[float]) -> list[tuple[_Series, list[float]]]:
        """Return the series of which a value is new, with their values."""
        width = len(values) // len(self._series)
        if self._values:
            cells = compress(range(len(values)), map(ne, values, self._values))
            places = sorted({cell // width for cell in cells})
        else:  # some children are new
            places = list(range(len(self._series)))
        return [(self._series[n], values[n * width : (n + 1) * width]) for n in places]

    def _in_openmetrics(self) -> bytes:
        if type(self._metric) is Gauge or not self._series:
            return self._text
        if not (any(map(_exemplar_of, self._cells)) or self._series[0].counts_alone):
            return self._text
        return "".join([series.in_openmetrics() for series in self._series]).encode()


class _Series:
    """The lines of one child, which for a histogram are its buckets, count and sum."""

    __slots__ = ("_cells", "_child", "_labels", "_starts", "counts_alone", "text")

    def __init__(self, metric: Declared, child: Declared) -> None:
        self._child = child
        self._cells = _cells(child)
        self._labels = dict(zip(metric._labelnames, child._labelvalues, strict=False))
        self.counts_alone = isinstance(child, Histogram) and child._upper_bounds[0] < 0
        lines = self._format(openmetrics=False).removesuffix("\n").split("\n")
        self._starts = [line.rpartition(" ")[0] + " " for line in lines]  # without the value
        self.text = ""

    def format(self, values: Sequence[float]) -> None:
        """Set the text to the lines with these values of the cells."""
        if type(self._child) is Histogram:
            *buckets, total = values
            cumulative = list(accumulate(buckets))
            values = [*cumulative, cumulative[-1], total]
        lines = zip(self._starts, values, strict=False)  # a histogram may have no sum
        self.text = "".join([f"{start}{_number(value)}\n" for start, value in lines])

    def in_openmetrics(self) -> str:
        """Return the text with exemplars, and without a count that has no sum."""
        exemplars = any(cell._exemplar for cell in self._cells)
        text = self._format(openmetrics=True) if exemplars else self.text
        # OpenMetrics has no count without a sum, and no sum with negative buckets. The library
        # writes the count, and its parser then rejects the whole scrape.
        return text[: text.rindex("\n", 0, -1) + 1] if self.counts_alone else text

    def _format(self, *, openmetrics: bool) -> str:
        """Return the lines as the library formats them."""
        [family] = self._child.collect()
        for place, sample in enumerate(family.samples):
            family.samples[place] = sample._replace(labels=self._labels | sample.labels)
        text = _format([family], openmetrics)
        return "".join(line + "\n" for line in text.split("\n") if line and line[0] != "#")


def _cells(child: Declared) -> list[MutexValue]:
    """Return where a child keeps its values: buckets and sum, or one number."""
    if isinstance(child, Histogram):
        return [*child._buckets, child._sum]
    return [child._value]


def _children(metric: Declared) -> list[Declared]:
    """Return the children; without labels, the metric itself."""
    if not metric._labelnames:
        return [metric]
    with metric._lock:
        return list(metric._metrics.values())  # type: ignore[arg-type]  # they have its class


def _collectors(registry: CollectorRegistry) -> list[Collector]:
    return list(registry._collector_to_names)  # in the order of registration


def _by_name(registries: Iterable[CollectorRegistry]) -> Iterable[list[Declared]]:
    families: dict[str, list[Declared]] = {}
    for registry in registries:
        for collector in _collectors(registry):
            if type(collector) in _DECLARED:
                metric = cast(Declared, collector)
                families.setdefault(metric._name, []).append(metric)
    return families.values()


def _format(families: list[Metric], openmetrics: bool) -> str:
    """Return families as the library formats them, without the end mark."""
    form = generate_openmetrics if openmetrics else generate_latest
    return form(_These(families)).removesuffix(_END).decode()


class _These(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
