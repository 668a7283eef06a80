"""Exporting is bounded, and a collector that fails costs the requests nothing."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tests.unit.tracing.samples import a_request
from tidegate.service.tracing import export as export_module
from tidegate.service.tracing.export import MOST_WAITING, Export
from tidegate.service.tracing.request import TracedRequest

PATIENCE_S = 150


class FakeSpans:
    """Builds one span for each request."""

    def of(self, requests: Sequence[TracedRequest]) -> list[ReadableSpan]:
        return [ReadableSpan(request.name) for request in requests]


class FakeCollector(SpanExporter):
    """Takes spans, or fails, or does not return before the test lets it."""

    def __init__(self, *, works: bool = True, open_: bool = True) -> None:
        self.works = works
        self.names: list[str] = []
        self.calls = 0
        self.asked, self.gate = threading.Event(), threading.Event()
        if open_:
            self.gate.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.calls += 1
        self.asked.set()
        self.gate.wait(PATIENCE_S)
        if not self.works:
            return SpanExportResult.FAILURE
        self.names += [span.name for span in spans]
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.gate.set()


@contextmanager
def exporting(collector: FakeCollector) -> Iterator[tuple[Export, Counter[str]]]:
    outcomes: Counter[str] = Counter()

    def on_outcome(outcome: str, requests: int) -> None:
        outcomes[outcome] += requests

    export = Export(FakeSpans(), collector, on_outcome, pause_s=0.001)
    yield export, outcomes
    collector.gate.set()
    assert export.close(PATIENCE_S)


def put_until(export: Export, reached: Callable[[], bool]) -> None:
    """Queue requests until the exporting thread has done something."""
    pause, end = threading.Event(), time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end
        export.put(a_request())
        pause.wait(0.001)


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    sdk = logging.getLogger("opentelemetry")
    before = sdk.level
    yield
    sdk.setLevel(before)


@pytest.mark.lengthy
def test_requests_are_exported_in_order() -> None:
    collector = FakeCollector()
    with exporting(collector) as (export, outcomes):
        for number in range(200):
            export.put(a_request(name=str(number)))
        export.close(PATIENCE_S)

    assert collector.names == [str(number) for number in range(200)]
    assert outcomes == {"exported": 200}


@pytest.mark.lengthy
def test_a_collector_that_hangs_holds_up_nobody_and_the_rest_is_dropped() -> None:
    collector = FakeCollector(open_=False)
    with exporting(collector) as (export, outcomes):
        export.put(a_request())
        assert collector.asked.wait(PATIENCE_S)
        for _ in range(MOST_WAITING + 10):
            export.put(a_request())

        assert outcomes == {"dropped": 10}
        assert not export.close(0.01)
    assert outcomes["exported"] + outcomes["dropped"] == MOST_WAITING + 11


def test_a_collector_that_fails_is_reported_once_and_tried_less_often(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_LONGEST_PAUSE_S", 0.002)
    collector = FakeCollector(works=False)
    caplog.set_level(logging.INFO)
    with exporting(collector) as (export, outcomes):
        put_until(export, lambda: collector.calls >= 3)
        collector.works = True
        put_until(export, lambda: bool(collector.names))
        export.close(PATIENCE_S)

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert outcomes["failed"] >= 3


@pytest.mark.lengthy
def test_a_stop_does_not_wait_for_a_collector_that_fails() -> None:
    collector, outcomes, failed = FakeCollector(works=False), Counter[str](), threading.Event()

    def on_outcome(outcome: str, requests: int) -> None:
        outcomes[outcome] += requests
        failed.set()

    export = Export(FakeSpans(), collector, on_outcome, pause_s=0.5)  # then 1 s
    for _ in range(100):
        export.put(a_request())
    assert failed.wait(PATIENCE_S)
    export.close(PATIENCE_S)

    assert collector.calls == 1
    assert outcomes == {"failed": 64, "dropped": 36}


def test_an_error_while_building_ends_neither_the_thread_nor_the_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(FakeSpans):
        def of(self, requests: Sequence[TracedRequest]) -> list[ReadableSpan]:
            if requests[0].name == "bad":
                raise ValueError("a bug")
            return super().of(requests)

    collector, failed = FakeCollector(), threading.Event()
    export = Export(Broken(), collector, lambda outcome, _: failed.set(), pause_s=0.001)
    export.put(a_request(name="bad"))
    assert failed.wait(PATIENCE_S)
    export.put(a_request(name="good"))
    put_until(export, lambda: bool(collector.names))
    export.close(PATIENCE_S)

    assert collector.names[0] == "good"
    assert "a bug" in caplog.text
