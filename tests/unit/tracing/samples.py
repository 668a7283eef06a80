"""Answered requests for tests."""

from collections.abc import Sequence

from tidegate.service.progress import BatchRun, Progress
from tidegate.service.tracing.request import TracedRequest
from tidegate.service.tracing.trace_context import TraceParent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def a_request(
    name: str = "POST /classify",
    span: TraceParent | None = None,
    images: Sequence[Progress] = (),
    parent: TraceParent | None = None,
    *,
    failed: bool = False,
) -> TracedRequest:
    """Return a request that arrived at 10 s and ended at 20 s on a clock that began in 1970."""
    return TracedRequest(
        span=span or TraceParent(TRACE, SPAN, 1),
        parent=parent,
        tracestate="",
        name=name,
        attributes={"http.route": "/classify"},
        failed=failed,
        started=10.0,
        ended=20.0,
        epoch=0.0,
        images=images,
    )


def an_image(run: BatchRun | None = None, decode_at: float | None = 12.0) -> Progress:
    """Return an image that was received at 11 s."""
    return Progress(
        received=11.0,
        predicted_s=5.0,
        decode_at=decode_at,
        decode_s=1.0,
        batch=run,
        gates_at=None if run is None else 18.0,
        gates_s=0.5,
        ended=19.0,
        decision="accept" if run else "",
        p_value=0.25,
    )
