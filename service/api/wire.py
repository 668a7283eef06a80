"""What the connections of one server share: its drain, and answers that need no handler."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus

from service.api.context import RequestContext
from service.api.framing import Refusal
from service.api.problems import make_problem, respond

log = logging.getLogger("service.access")

_ROUTE = "malformed"  # as the metrics and the log name a request that reaches no route
_PROBLEMS = {
    400: ("bad-request", "The request is malformed"),
    405: ("method-not-allowed", "Method Not Allowed"),
    431: ("head-too-large", "The request's head is too large"),
}


MAX_HALF_CLOSED = 8  # connections of one server at once whose client only reads
_CROWD_S = 1.0  # after more than those at once, the end of input is a client that leaves


class HalfClosed:
    """Connections whose client has ended its input and may still read; a crowd of them has left."""

    def __init__(self) -> None:
        self._transports: set[asyncio.Transport] = set()
        self._crowd_until = -math.inf

    def admit(self, transport: asyncio.Transport, now: float) -> bool:
        """Return whether to keep this connection. One too many closes them all."""
        if len(self._transports) >= MAX_HALF_CLOSED:
            self._crowd_until = now + _CROWD_S
            for other in list(self._transports):
                other.abort()
            self._transports.clear()
        if now < self._crowd_until:
            return False
        self._transports.add(transport)
        return True

    def forget(self, transport: asyncio.Transport) -> None:
        """Drop a connection that is closed."""
        self._transports.discard(transport)


@dataclass(slots=True)
class Wire:
    """Shared by the connections of one server; used on the event loop."""

    on_refused: Callable[[str, int], None] = lambda route, status: None  # counts the answer
    keep_alive_s: float = 75.0  # longer than a load balancer's 60 s: it never meets a closed one
    body_stall_s: float = 60.0  # longest pause between two reads of a body that is waited for
    draining: bool = False  # every answer closes its connection
    stopping: bool = False  # idle connections are closed
    half_closed: HalfClosed = field(default_factory=HalfClosed)

    def refuse(
        self,
        refusal: Refusal,
        fields: list[tuple[bytes, bytes]],
        default_fields: Iterable[tuple[bytes, bytes]],
    ) -> bytes:
        """Return the whole answer to a request that no handler can be given; log and count it."""
        context = RequestContext.from_headers(fields)
        code, title = _PROBLEMS[refusal.status]
        problem = make_problem(refusal.status, code, title, str(refusal), context)
        self.on_refused(_ROUTE, refusal.status)
        log.info(
            "request",
            extra={
                "fields": {
                    "request_id": context.request_id,
                    "route": _ROUTE,
                    "status": refusal.status,
                    "code": code,
                    "detail": str(refusal),
                }
            },
        )
        response = respond(problem)
        head = [
            *default_fields,
            *response.raw_headers,
            *context.response_headers(),
            (b"connection", b"close"),
        ]
        status = HTTPStatus(refusal.status)
        lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode("ascii"))]
        lines += [name + b": " + value for name, value in head]
        return b"\r\n".join([*lines, b"", bytes(response.body)])
