"""The line of each request in the log: always for errors, for a share of the successes."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, MutableMapping
from typing import Any

from tidegate.service.api.connection import Connection
from tidegate.service.api.context import RequestContext
from tidegate.service.api.limits import address_of

log = logging.getLogger("tidegate.service.access")

# Routes and paths of probes and scrapes: not traced, and logged at level debug.
QUIET = {
    "/livez",
    "/readyz",
    "/metrics",
    "/ping",
    "/health",
    "/v2/health/live",
    "/v2/health/ready",
}
_FIRST_ERROR = 400
_RANDOM_DIGITS = 14  # at the end of a trace id
_TRACES = float(16**_RANDOM_DIGITS)
_USER_AGENT_CHARACTERS = 200
_UNPRINTABLE = re.compile(rb"[^\x20-\x7e]")


class AccessLog:
    """Writes the lines of requests."""

    def __init__(self, share: float = 1.0, on_left_out: Callable[[], object] = bool) -> None:
        """`share` is that of the successes; `on_left_out` is called for each of the others."""
        self._share = share
        self._on_left_out = on_left_out

    def record(
        self,
        scope: MutableMapping[str, Any],
        context: RequestContext,
        route: str,
        status: int,
        duration_s: float,
    ) -> None:
        """Log one answered request, or count it as left out."""
        level = logging.DEBUG if route in QUIET else logging.INFO
        if not log.isEnabledFor(level):
            return
        if status < _FIRST_ERROR and self._share < 1 and not self._is_drawn(context.trace_id):
            self._on_left_out()
            return
        fields = {
            "request_id": context.request_id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "duration_ms": round(1000 * duration_s, 3),
            "client": address_of(scope.get("client")),
            "bytes_in": Connection.of(scope).body_bytes,
            **_of_images(context),
            **context.log,
        }
        if context.user_agent:
            fields["user_agent"] = printable(context.user_agent)
        if context.trace_id:
            fields["trace_id"] = context.trace_id
        log.log(level, "request", extra={"fields": fields})

    def _is_drawn(self, trace_id: str | None) -> bool:
        """All services that draw by the trace id log the same traces."""
        if trace_id is None:
            return random.random() < self._share  # noqa: S311 - not for security
        return int(trace_id[-_RANDOM_DIGITS:], 16) / _TRACES < self._share


def _of_images(context: RequestContext) -> dict[str, Any]:
    """Return what is known of a single image; of several, how many there were."""
    images = context.images
    if len(images) != 1:
        return {"images": len(images)} if images else {}
    image = images[0]
    fields: dict[str, Any] = {}
    if image.batch is not None:
        fields["batch_size"] = image.batch.images
        fields["queue_ms"] = round(1000 * image.queue_s, 3)
        fields["engine_ms"] = round(1000 * image.batch.engine_s, 3)
    return fields


def printable(value: bytes) -> str:
    """Return the start of a client's text, with bytes that are not printable ASCII as \\xNN."""
    cut = value[:_USER_AGENT_CHARACTERS]
    return _UNPRINTABLE.sub(lambda found: b"\\x%02x" % found[0][0], cut).decode("ascii")
