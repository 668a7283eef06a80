"""The outermost ASGI layer: it times, counts, traces and logs every request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidegate.service.api.access_log import QUIET, AccessLog
from tidegate.service.api.context import RequestContext
from tidegate.service.api.traced import traced_request
from tidegate.service.metrics import Metrics
from tidegate.service.tracing.request import Tracer

OnUnexpectedError = Callable[[BaseException, RequestContext], ASGIApp]


class ContextMiddleware:
    """Creates each request's context, responds to unexpected errors, and records every request."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        on_unexpected_error: OnUnexpectedError,
        access_log: AccessLog,
        tracer: Tracer | None = None,
    ) -> None:
        """Without a tracer no request is traced."""
        self._app = app
        self._metrics = metrics
        self._on_unexpected_error = on_unexpected_error
        self._access_log = access_log
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext.from_headers(scope["headers"])
        context.put(scope)
        context.started = time.monotonic()
        if self._tracer is not None and scope["path"] not in QUIET:
            context.span = self._tracer.decide(
                context.parent, context.state, forced=context.force_trace
            )
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
            self._record(scope, context, status, time.perf_counter() - started)
            # An open connection refers to its last request, and a version may be unloaded by now.
            context.chosen = None

    def _record(
        self, scope: Scope, context: RequestContext, status: int, duration_s: float
    ) -> None:
        route = context.route or str(getattr(scope.get("route"), "path_format", "other"))
        self._metrics.request(route, status, duration_s, context.sampled_trace_id)
        if context.client:
            self._metrics.client_request(context.client, status)
        if self._tracer is not None and context.span is not None:
            self._tracer.record(traced_request(scope, context, context.span, route, status))
        self._access_log.record(scope, context, route, status, duration_s)
