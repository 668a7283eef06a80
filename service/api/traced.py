"""What a trace tells about a request: the attributes of OpenTelemetry's conventions, and ours."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import Any

from tidegate.service.api.access_log import printable
from tidegate.service.api.connection import Connection
from tidegate.service.api.context import RequestContext
from tidegate.service.api.limits import address_of
from tidegate.service.tracing.request import Attribute, TracedRequest
from tidegate.service.tracing.trace_context import TraceParent

_SERVER_ERROR = 500
_LOGGED = {  # field of the log line → attribute
    "code": "tidegate.problem",
    "shed": "tidegate.shed_reason",
    "key": "tidegate.client",  # the name of an API key
}


def traced_request(
    scope: MutableMapping[str, Any],
    context: RequestContext,
    span: TraceParent,
    route: str,
    status: int,
) -> TracedRequest:
    """Return an answered request as it is exported; it has ended now."""
    attributes: dict[str, Attribute] = {
        "http.request.method": scope["method"],
        "http.route": route,
        "url.path": scope["path"],
        "url.scheme": scope.get("scheme", "http"),
        "http.response.status_code": status,
        "http.request.body.size": Connection.of(scope).body_bytes,
        "client.address": address_of(scope.get("client")),
        "tidegate.request_id": context.request_id,
    }
    if context.user_agent:
        attributes["user_agent.original"] = printable(context.user_agent)
    attributes |= {
        name: context.log[field] for field, name in _LOGGED.items() if field in context.log
    }
    if context.chosen is not None:
        bundle = context.chosen.served.bundle
        attributes["tidegate.model.name"] = bundle.manifest.name
        attributes["tidegate.model.version"] = bundle.manifest.version
        attributes["tidegate.model.digest"] = bundle.digest
    failed = status >= _SERVER_ERROR
    if failed:
        attributes["error.type"] = str(context.log.get("code", status))
    ended = time.monotonic()
    return TracedRequest(
        span=span,
        parent=context.parent,
        tracestate=context.state,
        name=f"{scope['method']} {route}",
        attributes=attributes,
        failed=failed,
        started=context.started,
        ended=ended,
        epoch=time.time() - ended,
        images=context.images,
    )
