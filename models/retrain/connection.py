"""The receiver's HTTP server: the service's bounded connections with smaller bounds."""

from __future__ import annotations

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import service_unavailable

from tidegate.service.api.crowd import Connections
from tidegate.service.api.server import Server
from tidegate.service.api.wire import Wire

HEAD_TIMEOUT_S = 10.0  # from the connection, or from the first byte of a request
_IDLE_S = 30  # after which an idle connection is closed
_MAX_CONNECTIONS = 64  # also the limit of requests in progress; beyond it, 503


class ReceiverServer(Server):
    """Stops at SIGTERM and SIGINT, like uvicorn's own server."""

    capture_signals = uvicorn.Server.capture_signals


class BoundedWork:
    """Answers 503 while `most` requests are in progress, even if their clients disconnected."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._running >= self._most:
            await service_unavailable(scope, receive, send)  # type: ignore[arg-type]  # uvicorn's
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1


def server_of(app: ASGIApp, head_timeout_s: float = HEAD_TIMEOUT_S) -> ReceiverServer:
    """Return a server with the receiver's bounds."""
    config = uvicorn.Config(
        BoundedWork(app, _MAX_CONNECTIONS),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_IDLE_S,
    )
    wire = Wire(
        keep_alive_s=_IDLE_S,
        head_timeout_s=head_timeout_s,
        connections=Connections(max_in_all=_MAX_CONNECTIONS),
    )
    return ReceiverServer(config, wire)
