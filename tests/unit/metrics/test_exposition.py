"""A scrape has the library's lines, whatever was updated before, and lets the event loop run."""

import asyncio
import gc
import itertools
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from tidegate.service.metrics import Metrics, ModelMetrics, ServedModel
from tidegate.service.metrics import exposition as exposition_module
from tidegate.service.metrics.exposition import Exposition, ModelRegistries
from tidegate.service.metrics.tables import MODEL_INFO

LABELS = ("", 'a "b"', "back\\slash", "two\nlines", "é # x 1.0")
FLOATS = st.floats(-1e9, 1e9) | st.sampled_from([0.0, float("inf"), float("nan")])


class World:
    """A registry with every kind of metric, two models, and the steps that change them."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # as Metrics does
        self.registry = CollectorRegistry()
        self.counter = Counter(
            "c", "A counter\nwith \\ in its help.", ["x"], registry=self.registry
        )
        self.gauge = Gauge("g", "A gauge.", ["x"], registry=self.registry)
        self.plain = Gauge("p", "Without labels.", registry=self.registry)
        self.live = Gauge("live", "A function.", registry=self.registry)
        self.live.set_function(lambda: 3.5)
        self.models = ModelRegistries()
        self.registry.register(self.models)
        self.seconds = Histogram("s_seconds", "Seconds.", ["x"], registry=self.registry)
        self.registries, self.scores = [], []
        for bound in (0.5, -7.0):
            registry = CollectorRegistry()
            buckets = [bound, 8.0]
            score = Histogram("score", "Scores.", ["v", "x"], buckets=buckets, registry=registry)
            Counter("images", "Images.", registry=registry)
            self.registries.append(registry)
            self.scores.append(score)

    def steps(self) -> dict[str, Callable[[str, float], object]]:
        return {
            "inc": lambda label, value: self.counter.labels(label).inc(abs(value)),
            "exemplar": lambda label, value: self.counter.labels(label).inc(0, {"trace_id": "ab"}),
            "set": lambda label, value: self.gauge.labels(label).set(value),
            "plain": lambda label, value: self.plain.set(value),
            "clear": lambda label, value: self.gauge.clear(),
            "observe": lambda label, value: self.seconds.labels(label).observe(value),
            "traced": lambda label, value: self.seconds.labels(label).observe(
                value, {"trace_id": "0af7"}
            ),
            "show": lambda label, value: self.models.add(self.registries[len(label) % 2]),
            "hide": lambda label, value: self.models.remove(self.registries[len(label) % 2]),
            "score": lambda label, value: self.scores[0].labels("", label).observe(value),
            "energy": lambda label, value: self.scores[1].labels("negative", label).observe(value),
        }


def _openmetrics(registry: CollectorRegistry) -> bytes:
    """Return what the library generates, without the counts that its own parser rejects."""
    text: bytes = generate_openmetrics(registry)  # type: ignore[no-untyped-call]  # no types there
    lines = text.split(b"\n")
    return b"\n".join(line for line in lines if not line.startswith(b'score_count{v="negative"'))


STEPS = st.tuples(st.sampled_from(sorted(World().steps())), st.sampled_from(LABELS), FLOATS)


@pytest.mark.lengthy
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(STEPS, max_size=8), max_size=5))
def test_every_scrape_is_what_the_library_generates(
    rounds: list[list[tuple[str, str, float]]],
) -> None:
    world = World()
    exposition = Exposition(world.registry)
    for steps in rounds:
        for name, label, value in steps:
            world.steps()[name](label, value)

        assert exposition.render(openmetrics=False) == generate_latest(world.registry)
        assert exposition.render(openmetrics=True) == _openmetrics(world.registry)


def test_a_line_is_formatted_again_only_if_its_series_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    for label in LABELS:
        world.counter.labels(label).inc()
        world.seconds.labels(label).observe(1.0)
    exposition = Exposition(world.registry)
    exposition.render(openmetrics=False)
    formatted: list[float] = []

    def number(value: float) -> str:
        formatted.append(value)
        return "9"

    monkeypatch.setattr(exposition_module, "_number", number)

    world.counter.labels("").inc()
    exposition.render(openmetrics=True)

    assert formatted == [2.0]


def test_a_histogram_agrees_with_itself_while_threads_observe() -> None:
    world, stop = World(), threading.Event()
    child = world.seconds.labels("")

    def observe() -> None:
        while not stop.is_set():
            for seconds in (0.001, 0.3, 20.0):
                child.observe(seconds)

    threads = [threading.Thread(target=observe) for _ in range(2)]
    for thread in threads:
        thread.start()
    exposition, last = Exposition(world.registry), 0.0
    try:
        for _ in range(200):
            lines = exposition.render(openmetrics=False).decode().splitlines()
            found = [line.rpartition(" ")[2] for line in lines if line.startswith("s_seconds_")]
            *buckets, count, _ = map(float, found)
            assert buckets == sorted(buckets)
            assert last <= buckets[-1] == count
            last = count
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_function_that_is_set_after_a_scrape_is_called() -> None:
    world = World()
    exposition = Exposition(world.registry)
    exposition.render(openmetrics=False)

    world.plain.set_function(lambda: 7.0)

    assert b"\np 7.0\n" in exposition.render(openmetrics=False)


@pytest.mark.lengthy
def test_the_event_loop_runs_while_1000_classes_are_formatted() -> None:
    metrics, turns = Metrics("0"), 0
    metrics.show_model(model_of(1000))

    async def scrape() -> bytes:
        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.create_task(turn())
        try:
            return await metrics.render_in_slices(openmetrics=False)
        finally:
            turning.cancel()

    text = asyncio.run(scrape())

    assert text.count(b"\ntidegate_predictions_total{") == 1000
    assert turns > 20  # the first scrape takes at least 20 ms, a slice 0.5


@pytest.mark.parametrize("pieces", range(1, 12))
def test_a_scrape_that_is_aborted_leaves_no_old_line(
    monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    world = World()
    exposition = Exposition(world.registry)

    def put(first: float, second: float) -> None:
        world.gauge.labels("a").set(first)
        world.gauge.labels("b").set(second)

    put(1, 1)
    exposition.render(openmetrics=False)
    put(2, 2)
    with monkeypatch.context() as patch:
        after = itertools.count(1)

        async def pause(seconds: float) -> None:
            if next(after) == pieces:
                raise asyncio.CancelledError

        patch.setattr(exposition_module, "SLICE_S", -1.0)
        patch.setattr(asyncio, "sleep", pause)
        with suppress(asyncio.CancelledError):
            asyncio.run(exposition.render_in_slices(openmetrics=False))

    for first, second in ((1.0, 1.0), (1.0, 3.0)):  # one changes back, then the other
        put(first, second)
        assert exposition.render(openmetrics=False) == generate_latest(world.registry)


def test_what_blocks_is_read_on_a_thread() -> None:
    threads: list[threading.Thread] = []

    class Gpu(Collector):
        def collect(self) -> list[Metric]:
            threads.append(threading.current_thread())
            return []

    registry = CollectorRegistry()
    registry.register(Gpu())
    threads.clear()
    asyncio.run(Exposition(registry).render_in_slices(openmetrics=False))

    assert threads != [threading.main_thread()]


def test_a_hidden_version_is_forgotten() -> None:
    world = World()
    exposition = Exposition(world.registry)
    world.models.add(world.registries[0])
    exposition.render(openmetrics=False)
    kept = weakref.ref(world.scores.pop(0))
    world.models.remove(world.registries.pop(0))
    exposition.render(openmetrics=False)
    gc.collect()

    assert kept() is None


def model_of(classes: int) -> ModelMetrics:
    return ModelMetrics(
        ServedModel(
            name="m",
            version="1",
            digest="d",
            info=dict.fromkeys(MODEL_INFO, "x"),
            labels=[f"class {c}" for c in range(classes)],
            class_fraction=[1 / classes] * classes,
            reference_samples=1,
            alphas={},
            calibration_samples=1,
            scores=("energy",),
            score_bounds=[0.5],
            max_class_series=100,
            confidence_at_most={},
        )
    )
