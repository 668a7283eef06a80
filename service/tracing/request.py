"""A traced request, as it is handed to the thread that exports it; and who takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tidegate.service.progress import Progress
from tidegate.service.tracing.trace_context import TraceParent

Attribute = str | int | float


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """An answered request. Times are on time.monotonic(), in seconds."""

    span: TraceParent  # its own, as the response named it
    parent: TraceParent | None  # the caller's
    tracestate: str
    name: str
    attributes: Mapping[str, Attribute]
    failed: bool  # because of the service, not of the client
    started: float
    ended: float
    epoch: float  # what to add for seconds since 1970
    images: Sequence[Progress]


class Tracer(Protocol):
    """Decides which requests are traced, and takes those that were."""

    def decide(
        self, parent: TraceParent | None, tracestate: str, *, forced: bool
    ) -> TraceParent | None:
        """Return the span of a request that has arrived; None if it is not traced."""
        ...

    def record(self, request: TracedRequest) -> None:
        """Take an answered request; never blocks."""
        ...
