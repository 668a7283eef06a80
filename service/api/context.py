"""The context of a request, and the ASGI middleware that times, counts and logs requests."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import secrets
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidegate.service.metrics import Metrics

log = logging.getLogger("tidegate.service.access")

_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._:/+=@-]{1,128}$")
_TRACEPARENT = re.compile(
    rb"^00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})$"
)  # W3C Trace Context, version 00
_QUIET = {"/livez", "/readyz", "/metrics"}
_KEY = "tidegate"
# Ids must be unique but not unguessable, so they need no system call each.
_ids = random.Random(secrets.randbits(256))  # noqa: S311
# From a problem document to the status and the JSON body that a protocol's clients expect.
ErrorForm = Callable[[dict[str, Any]], tuple[int, bytes]]


@dataclass(slots=True)
class RequestContext:
    """The headers of a request that the service uses, and the fields of its log line."""

    request_id: str
    content_length: str | None = None
    content_type: str = ""
    content_encoding: str = ""
    timeout_ms: str | None = None  # X-Request-Timeout-Ms
    canary_key: str = ""  # X-Canary-Key
    version: str = ""  # X-Tidegate-Version
    trace_id: str | None = None
    traceparent: str | None = None
    route: str | None = None
    error_form: ErrorForm | None = None  # of the route's protocol; None: problem+json
    log: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(scope: MutableMapping[str, Any]) -> RequestContext:
        """Return the context of the request with this ASGI scope."""
        context: RequestContext = scope[_KEY]
        return context

    @staticmethod
    def from_headers(headers: list[tuple[bytes, bytes]]) -> RequestContext:
        """Return the context of a request; without a valid X-Request-Id, it gets a new id."""
        context = RequestContext("")
        for name, value in headers:  # names are in lower case
            take = _TAKES.get(name)
            if take is not None:
                take(context, value)
        context.request_id = context.request_id or f"{_ids.getrandbits(128):032x}"
        return context

    def response_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that every response has."""
        headers = [(b"x-request-id", self.request_id.encode("ascii"))]
        if self.traceparent:
            headers.append((b"traceparent", self.traceparent.encode("ascii")))
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


def _take_traceparent(context: RequestContext, value: bytes) -> None:
    if match := _TRACEPARENT.match(value):
        context.trace_id = match[1].decode("ascii")
        flags = match[2].decode("ascii")
        context.traceparent = f"00-{context.trace_id}-{_ids.getrandbits(64):016x}-{flags}"


_TAKES = {
    b"content-length": _take_content_length,
    b"content-type": _take_content_type,
    b"content-encoding": _take_content_encoding,
    b"x-request-timeout-ms": _take_timeout,
    b"x-canary-key": _take_canary_key,
    b"x-tidegate-version": _take_version,
    b"x-request-id": _take_request_id,
    b"traceparent": _take_traceparent,
}

OnUnexpectedError = Callable[[BaseException, RequestContext], ASGIApp]


class ContextMiddleware:
    """Creates each request's context, responds to unexpected errors, and records every request."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, on_unexpected_error: OnUnexpectedError
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._on_unexpected_error = on_unexpected_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = scope[_KEY] = RequestContext.from_headers(scope["headers"])
        started = time.perf_counter()
        status = 0

        async def send_with_context(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *context.response_headers()]
            await send(message)

        self._metrics.inflight.inc()
        try:
            await self._app(scope, receive, send_with_context)
        except (Exception, asyncio.CancelledError) as error:
            if status:  # the response has started
                raise
            response = self._on_unexpected_error(error, context)
            await response(scope, receive, send_with_context)
        finally:
            self._metrics.inflight.dec()
            context.route = context.route or str(getattr(scope.get("route"), "path", "other"))
            duration_s = time.perf_counter() - started
            record(self._metrics, context, scope["method"], status, duration_s)


def record(
    metrics: Metrics, context: RequestContext, method: str, status: int, duration_s: float
) -> None:
    """Count and log one answered request; `context` has its route."""
    route = context.route or "other"
    metrics.request(route, status, duration_s)
    level = logging.DEBUG if route in _QUIET else logging.INFO
    if log.isEnabledFor(level):
        fields = {
            "request_id": context.request_id,
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": round(1000 * duration_s, 3),
            **context.log,
        }
        if context.trace_id:
            fields["trace_id"] = context.trace_id
        log.log(level, "request", extra={"fields": fields})
