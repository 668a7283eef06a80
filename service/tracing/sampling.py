"""Whether a request is traced: by the sampler that OTEL_TRACES_SAMPLER configures."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from tidegate.service.tracing.trace_context import SAMPLED, TraceParent

_NAME = "HTTP"  # the route is not known yet
_NO_PARENT = Context()
_RANDOM = 0x02  # the flag of trace ids that are random


def remote_parent(parent: TraceParent | None, tracestate: str) -> Context:
    """Return the context of a span below the caller's."""
    if parent is None:
        return _NO_PARENT
    above = SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(parent.flags),
        trace_state=TraceState.from_header([tracestate]) if tracestate else None,
    )
    return set_span_in_context(NonRecordingSpan(above), _NO_PARENT)


class Sampling:
    """Asks the sampler, and draws the ids of the traced requests."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._ids = RandomIdGenerator()

    def decide(
        self, parent: TraceParent | None, tracestate: str, *, forced: bool
    ) -> TraceParent | None:
        """Return the span of a request; None if it is not traced. `forced` always traces it."""
        if parent is None:
            trace_id, flags = self._ids.generate_trace_id(), SAMPLED | _RANDOM
        else:
            trace_id, flags = int(parent.trace_id, 16), parent.flags | SAMPLED
        if not forced:
            above = remote_parent(parent, tracestate)
            result = self._sampler.should_sample(above, trace_id, _NAME, SpanKind.SERVER)
            if result.decision is not Decision.RECORD_AND_SAMPLE:
                return None
        return TraceParent(f"{trace_id:032x}", f"{self._ids.generate_span_id():016x}", flags)
