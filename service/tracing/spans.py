"""The spans of answered requests, built afterwards from the times that were noted.

    POST /classify          from the request's head to the end of its response
    ├── read                the body
    ├── queue               waiting for a decoder or a slot; there may be several
    ├── decode
    ├── engine              linked to the batch
    └── gates
    batch                   a trace of its own, shared by the images that ran together

In a request with several images, each image's steps are below a span `image`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    set_span_in_context,
)

from tidegate.service.progress import BatchRun, Progress
from tidegate.service.tracing.request import Attribute, TracedRequest
from tidegate.service.tracing.sampling import remote_parent
from tidegate.service.tracing.trace_context import TraceParent

MOST_IMAGES = 64  # with spans, of one request
_SHORT_S = 0.0001  # a wait that gets no span, unless it is the only one
_BATCHES_KEPT = 256  # for requests that end after others of their batch were exported


class Spans:
    """Builds spans. Used by one thread."""

    def __init__(self, resource: Resource, version: str) -> None:
        """`version` is that of Tidegate."""
        self._ids = _Ids()
        self._ended = _Ended()
        provider = TracerProvider(
            ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=self._ids
        )
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("tidegate", version)
        self._open: dict[BatchRun, tuple[Span, float]] = {}  # with its epoch
        self._batches: OrderedDict[BatchRun, SpanContext] = OrderedDict()

    def of(self, requests: Iterable[TracedRequest]) -> list[ReadableSpan]:
        """Return the spans of requests and of the batches that ran their images."""
        for request in requests:
            self._add(request)
        for run, (span, epoch) in self._open.items():
            span.end(_ns(run.started + run.engine_s, epoch))
            self._batches[run] = span.get_span_context()
        self._open.clear()
        while len(self._batches) > _BATCHES_KEPT:
            self._batches.popitem(last=False)
        return self._ended.take()

    def _add(self, request: TracedRequest) -> None:
        only = of_image(request.images[0]) if len(request.images) == 1 else {}
        self._ids.next = request.span
        server = self._tracer.start_span(
            request.name,
            remote_parent(request.parent, request.tracestate),
            SpanKind.SERVER,
            {**request.attributes, **only},
            start_time=_ns(request.started, request.epoch),
        )
        if request.failed:
            server.set_status(Status(StatusCode.ERROR))
        below, epoch = set_span_in_context(server, Context()), request.epoch
        if request.images:
            self._step("read", request.started, request.images[0].received, below, epoch)
        for index, image in enumerate(request.images[:MOST_IMAGES]):
            if len(request.images) == 1:
                self._add_image(image, below, epoch)
                continue
            span = self._tracer.start_span(
                "image",
                below,
                attributes={"tidegate.image.index": index, **of_image(image)},
                start_time=_ns(image.received, epoch),
            )
            self._add_image(image, set_span_in_context(span, Context()), epoch)
            span.end(_ns(image.ended, epoch))
        server.end(_ns(request.ended, epoch))

    def _add_image(self, image: Progress, below: Context, epoch: float) -> None:
        for started, ended in _waits(image):
            self._step("queue", started, ended, below, epoch)
        if image.decode_at is not None:
            self._step("decode", image.decode_at, image.decode_at + image.decode_s, below, epoch)
        if image.batch is not None:
            run = image.batch
            engine = self._tracer.start_span(
                "engine",
                below,
                attributes={"tidegate.batch_size": run.images},
                links=[Link(self._batch_of(run, epoch))],
                start_time=_ns(run.started, epoch),
            )
            engine.end(_ns(run.started + run.engine_s, epoch))
            if run in self._open:
                self._open[run][0].add_link(engine.get_span_context())
        if image.gates_at is not None:
            self._step("gates", image.gates_at, image.gates_at + image.gates_s, below, epoch)

    def _batch_of(self, run: BatchRun, epoch: float) -> SpanContext:
        """Return the span of a batch; the first image of the batch opens it."""
        if run in self._batches:
            return self._batches[run]
        if run not in self._open:
            span = self._tracer.start_span(
                "batch",
                Context(),
                attributes={"tidegate.batch_size": run.images},
                start_time=_ns(run.started, epoch),
            )
            self._open[run] = span, epoch
        return self._open[run][0].get_span_context()

    def _step(self, name: str, started: float, ended: float, below: Context, epoch: float) -> None:
        span = self._tracer.start_span(name, below, start_time=_ns(started, epoch))
        span.end(_ns(max(started, ended), epoch))


def of_image(image: Progress) -> Mapping[str, Attribute]:
    """Return the attributes of one image."""
    attributes: dict[str, Attribute] = {}
    if image.batch is not None:
        attributes["tidegate.batch_size"] = image.batch.images
    if image.decision:
        attributes["tidegate.decision"] = image.decision
        attributes["tidegate.p_value"] = image.p_value
    return attributes


def _waits(image: Progress) -> list[tuple[float, float]]:
    """Return from when to when an admitted image waited."""
    if image.predicted_s is None:
        return []
    run, decode_at = image.batch, image.decode_at
    if decode_at is None:
        return [(image.received, image.ended)]
    waits = [(image.received, decode_at)]
    if run is not None:
        waits.append((decode_at + image.decode_s, run.started))
    long = [wait for wait in waits if wait[1] - wait[0] >= _SHORT_S]
    return long or waits[:1]


def _ns(at: float, epoch: float) -> int:
    return int((at + epoch) * 1e9)


class _Ids(RandomIdGenerator):
    """Gives the next span the ids that were drawn when its request arrived."""

    next: TraceParent | None = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.next is None else int(self.next.trace_id, 16)

    def generate_span_id(self) -> int:
        drawn, self.next = self.next, None
        return super().generate_span_id() if drawn is None else int(drawn.span_id, 16)


class _Ended(SpanProcessor):
    """Collects spans that have ended."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def take(self) -> list[ReadableSpan]:
        spans, self._spans = self._spans, []
        return spans
