"""The context of a request: what the service uses of its head, and what is learned on its road."""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidegate.service.api.server_timing import server_timing
from tidegate.service.catalog import Choice
from tidegate.service.progress import Progress
from tidegate.service.tracing.trace_context import (
    TraceParent,
    parse_traceparent,
    parse_tracestate,
)

_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._:/+=@-]{1,128}$")
_KEY = "tidegate"
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
# Ids must be unique but not unguessable, so they need no system call each.
_ids = random.Random(secrets.randbits(256))  # noqa: S311
# From a problem document to the status and the JSON body that a protocol's clients expect.
ErrorForm = Callable[[dict[str, Any]], tuple[int, bytes]]


@dataclass(slots=True)
class RequestContext:
    """The headers of a request that the service uses, and the fields of its log line."""

    request_id: str
    has_own_id: bool = False  # made here, so that no other request has it
    content_length: str | None = None
    content_type: str = ""
    content_encoding: str = ""
    timeout_ms: str | None = None  # X-Request-Timeout-Ms
    canary_key: str = ""  # X-Canary-Key
    version: str = ""  # X-Tidegate-Version
    user_agent: bytes = b""
    traceparent: bytes | None = None
    tracestate: bytes = b""
    force_trace: bool = False  # X-Force-Trace
    parent: TraceParent | None = None  # from traceparent: the caller's span
    state: str = ""  # from tracestate
    span: TraceParent | None = None  # its own, if the request is traced
    route: str | None = None
    client: str = ""  # the name of the client whose key the request has
    rate_limit: Callable[[], Iterable[tuple[bytes, bytes]]] | None = None  # its response fields
    error_form: ErrorForm | None = None  # of the route's protocol; None: problem+json
    chosen: Choice | None = None  # the version that answers; the route sets it
    started: float = 0.0  # on time.monotonic()
    log: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(scope: MutableMapping[str, Any]) -> RequestContext:
        """Return the context of the request with this ASGI scope."""
        context: RequestContext = scope[_KEY]
        return context

    def put(self, scope: MutableMapping[str, Any]) -> None:
        """Make this the context of the request with this ASGI scope."""
        scope[_KEY] = self

    @staticmethod
    def from_headers(headers: list[tuple[bytes, bytes]]) -> RequestContext:
        """Return the context of a request; without a valid X-Request-Id, it gets a new id."""
        context = RequestContext("")
        for name, value in headers:  # names are in lower case
            take = _TAKES.get(name)
            if take is not None:
                take(context, value)
        if not context.request_id:
            context.request_id, context.has_own_id = f"{_ids.getrandbits(128):032x}", True
        if context.traceparent:
            context.parent = parse_traceparent(context.traceparent)
            if context.tracestate and context.parent is not None:
                context.state = parse_tracestate(context.tracestate)
        return context

    def use_request_id(self, given: str) -> None:
        """Take a request id from a protocol's own header, if it is a valid one."""
        if _REQUEST_ID.match(encoded := given.encode("latin-1", "replace")):
            self.request_id, self.has_own_id = encoded.decode("ascii"), False

    @property
    def trace_id(self) -> str | None:
        """Return the id of the trace that the request belongs to."""
        trace = self.span or self.parent
        return None if trace is None else trace.trace_id

    @property
    def sampled_trace_id(self) -> str | None:
        """Return the same if the trace is recorded, here or by the caller."""
        trace = self.span or self.parent
        return trace.trace_id if trace is not None and trace.sampled else None

    @property
    def images(self) -> Sequence[Progress]:
        """Return what happened to the request's images."""
        return () if self.chosen is None else self.chosen.progress

    def response_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that every response has."""
        headers = [(b"x-request-id", self.request_id.encode("ascii")), _NO_SNIFFING]
        if (trace := self.span or self.parent) is not None:
            headers.append((b"traceparent", trace.header()))
        if self.state:
            headers.append((b"tracestate", self.state.encode("ascii")))
        if self.rate_limit is not None:
            headers += self.rate_limit()
        if images := self.images:
            headers.append((b"server-timing", server_timing(self.started, images)))
        return headers


def _take_content_length(context: RequestContext, value: bytes) -> None:
    context.content_length = context.content_length or value.decode("latin-1")


def _take_content_type(context: RequestContext, value: bytes) -> None:
    context.content_type = context.content_type or value.decode("latin-1")


def _take_content_encoding(context: RequestContext, value: bytes) -> None:
    coding = value.decode("latin-1")
    context.content_encoding += f", {coding}" if context.content_encoding else coding


def _take_timeout(context: RequestContext, value: bytes) -> None:
    timeout_ms = value.decode("latin-1")
    if context.timeout_ms is not None:  # repeated: a list (RFC 9110, 5.2), so invalid
        timeout_ms = f"{context.timeout_ms}, {timeout_ms}"
    context.timeout_ms = timeout_ms


def _take_canary_key(context: RequestContext, value: bytes) -> None:
    context.canary_key = context.canary_key or value.decode("latin-1")


def _take_version(context: RequestContext, value: bytes) -> None:
    context.version = context.version or value.decode("latin-1")


def _take_request_id(context: RequestContext, value: bytes) -> None:
    if _REQUEST_ID.match(value):
        context.request_id = value.decode("ascii")


def _take_user_agent(context: RequestContext, value: bytes) -> None:
    context.user_agent = value


def _take_traceparent(context: RequestContext, value: bytes) -> None:
    context.traceparent = value if context.traceparent is None else b""  # repeated: invalid


def _take_tracestate(context: RequestContext, value: bytes) -> None:
    context.tracestate += b"," + value  # a list that may be spread over several fields


def _take_force_trace(context: RequestContext, value: bytes) -> None:
    context.force_trace = value.lower() not in (b"", b"0", b"false")


_TAKES = {
    b"content-length": _take_content_length,
    b"content-type": _take_content_type,
    b"content-encoding": _take_content_encoding,
    b"x-request-timeout-ms": _take_timeout,
    b"x-canary-key": _take_canary_key,
    b"x-tidegate-version": _take_version,
    b"x-request-id": _take_request_id,
    b"user-agent": _take_user_agent,
    b"traceparent": _take_traceparent,
    b"tracestate": _take_tracestate,
    b"x-force-trace": _take_force_trace,
}
