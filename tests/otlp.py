"""A collector for tests: an HTTP server that decodes OTLP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.http_server import QuietHandler, serving
from tests.server import PATIENCE_S


@dataclass
class Collector:
    """What a service has exported."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    resource: dict[str, str | int | float] = field(default_factory=dict)
    news: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: bytes) -> None:
        exported = ExportTraceServiceRequest.FromString(body)
        with self.news:
            for of_resource in exported.resource_spans:
                self.resource = attributes(of_resource.resource.attributes)
                for scope in of_resource.scope_spans:
                    self.spans += scope.spans
            self.news.notify_all()

    def wait_for(self, reached: Callable[[list[Span]], bool]) -> list[Span]:
        with self.news:
            assert self.news.wait_for(lambda: reached(self.spans), PATIENCE_S), self.spans
            return list(self.spans)

    def trace(self, trace_id: str) -> dict[str, Span]:
        """Wait for the spans of a trace, and return them by name."""

        def whole(spans: list[Span]) -> bool:
            return any(span.kind == Span.SPAN_KIND_SERVER for span in of(spans, trace_id))

        return {span.name: span for span in of(self.wait_for(whole), trace_id)}


def of(spans: list[Span], trace_id: str) -> list[Span]:
    return [span for span in spans if span.trace_id.hex() == trace_id]


def attributes(given: Iterator[KeyValue] | list[KeyValue]) -> dict[str, str | int | float]:
    values = {one.key: one.value for one in given}
    return {key: getattr(value, value.WhichOneof("value") or "") for key, value in values.items()}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port."""
    collector = Collector()

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving(Handler) as port:
        collector.endpoint = f"http://127.0.0.1:{port}"
        yield collector
