"""State shared by the connections of one server, and responses that need no handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus

from tidegate.service.api.context import RequestContext
from tidegate.service.api.crowd import Connections, HalfClosed
from tidegate.service.api.framing import Refusal
from tidegate.service.api.methods import OF_THE_SERVER
from tidegate.service.api.problems import make_problem, respond
from tidegate.service.api.proxies import Proxies
from tidegate.service.api.tls import Tls

Field = tuple[bytes, bytes]
Fields = list[Field]

log = logging.getLogger("tidegate.service.access")

_ROUTE = "malformed"  # the route in metrics and logs of a request that reaches no handler
_PROBLEMS = {
    400: ("bad-request", "The request is malformed"),
    405: ("method-not-allowed", "Method not allowed"),
    431: ("head-too-large", "The request's head is too large"),
    503: ("overloaded", "The service is overloaded"),
}


@dataclass(slots=True)
class Wire:
    """Shared by the connections of one server; used on the event loop."""

    on_refused: Callable[[str, int], None] = lambda route, status: None  # counts the response
    on_shed: Callable[[], None] = lambda: None  # counts a rejected connection
    # Longer than the 60 s of load balancers, so that they never reuse a closed connection.
    keep_alive_s: float = 75.0
    head_timeout_s: float = 30.0  # to receive a head, from its first byte or from connecting
    body_stall_s: float = 60.0  # longest pause between two reads while a handler waits for a body
    draining: bool = False  # every response closes its connection
    stopping: bool = False  # idle connections are closed
    proxies: Proxies | None = None
    tls: Tls | None = None  # None: connections are not encrypted
    handshakes: set[asyncio.Task[None]] = field(default_factory=set)  # of TLS, in progress
    connections: Connections = field(default_factory=Connections)
    half_closed: HalfClosed = field(default_factory=HalfClosed)

    def is_proxy(self, peer: tuple[str, int] | None) -> bool:
        """Return whether a connection comes from a trusted proxy."""
        return self.proxies is not None and self.proxies.trust(peer[0] if peer else None)

    def refuse(
        self, refusal: Refusal, fields: Fields, default_fields: Iterable[Field], client: str = ""
    ) -> bytes:
        """Return the response to a request that cannot reach a handler; log and count it."""
        context = RequestContext.from_headers(fields)
        self.on_refused(_ROUTE, refusal.status)
        logged = {
            "request_id": context.request_id,
            "route": _ROUTE,
            "status": refusal.status,
            "code": _PROBLEMS[refusal.status][0],
            "detail": str(refusal),
            "client": client,
        }
        log.info("request", extra={"fields": logged})
        return _answer(refusal, context, default_fields)

    def refuse_connection(
        self, transport: asyncio.Transport, default_fields: Iterable[Field]
    ) -> None:
        """Respond to a connection beyond the limit, close it and count it.

        It is closed at once, even though the client may not receive the response: a connection that
        stays open for longer would exceed the limit too.
        """
        transport.write(self.refusal_of_connection(default_fields))
        transport.close()

    def refusal_of_connection(self, default_fields: Iterable[Field] = ()) -> bytes:
        """Count a connection beyond the limit, and return the response that it gets."""
        self.on_shed()
        refusal = Refusal("Too many open connections.", 503)
        fields = [*default_fields, (b"retry-after", b"1")]
        return _answer(refusal, RequestContext.from_headers([]), fields)


def _answer(refusal: Refusal, context: RequestContext, fields: Iterable[Field]) -> bytes:
    code, title = _PROBLEMS[refusal.status]
    response = respond(make_problem(refusal.status, code, title, str(refusal), context), context)
    if refusal.status == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = OF_THE_SERVER  # RFC 9110, 15.5.6
    head = [
        *fields,
        *response.raw_headers,
        *context.response_headers(),
        (b"connection", b"close"),
    ]
    status = HTTPStatus(refusal.status)
    lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode("ascii"))]
    lines += [name + b": " + value for name, value in head]
    return b"\r\n".join([*lines, b"", bytes(response.body)])
