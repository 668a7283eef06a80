"""Start tracing if the standard variables of OpenTelemetry ask for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from tidegate.service.tracing.request import TracedRequest
from tidegate.service.tracing.trace_context import TraceParent

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"


class _Sampling(Protocol):
    def decide(
        self, parent: TraceParent | None, tracestate: str, *, forced: bool
    ) -> TraceParent | None: ...


class _Export(Protocol):
    def put(self, request: TracedRequest) -> None: ...

    def close(self, timeout_s: float) -> bool: ...


class Tracing:
    """The tracer of a process. Used on the event loop."""

    def __init__(self, sampling: _Sampling, export: _Export) -> None:
        self.decide = sampling.decide
        self.record = export.put
        self.close = export.close


def start_tracing(
    environment: Mapping[str, str], version: str, on_outcome: Callable[[str, int], object]
) -> Tracing | None:
    """Return the tracer; None if no endpoint is set, or if traces cannot be exported to it.

    `version` is that of Tidegate. `on_outcome` is called on a thread with what became of a number
    of traced requests. The SDK reads the other OTEL_ variables from the process's environment.
    """
    if not _is_wanted(environment):
        return None
    protocol = next(filter(None, map(environment.get, _PROTOCOLS)), _PROTOCOL)
    if protocol != _PROTOCOL:
        log.warning("no traces: the OTLP protocol %r is not supported, use %s", protocol, _PROTOCOL)
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
    except ImportError as error:
        log.warning("no traces: %s; install tidegate[otel]", error)
        return None
    from tidegate.service.tracing.export import Export
    from tidegate.service.tracing.sampling import Sampling
    from tidegate.service.tracing.spans import Spans

    own = Resource({"service.name": "tidegate", "service.version": version})
    resource = Resource.create().merge(own).merge(OTELResourceDetector().detect())
    sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler
    log.info("exporting traces, sampled by %s", sampler.get_description())
    export = Export(Spans(resource, version), OTLPSpanExporter(), on_outcome)
    return Tracing(Sampling(sampler), export)


def _is_wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environment.get("OTEL_TRACES_EXPORTER", "") or "otlp"
    if "otlp" not in exporters.split(","):
        return False
    return any(environment.get(name, "").strip() for name in ENDPOINTS)
