"""Tidegate's HTTP API as an application of Ray Serve: each replica is a service with its engine.

Ray's proxy is between the clients and the service: it adds latency, its limits and time-outs apply
too, and the service does not see a client that disconnects.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from starlette.types import ASGIApp, Receive, Scope, Send

from tidegate.service.app import build
from tidegate.service.errors import TidegateError
from tidegate.service.lifecycle import Service
from tidegate.service.settings import Settings


class StartedByLifespan:
    """An ASGI app that starts a service before the first request, and closes it at the end."""

    def __init__(self, app: ASGIApp, service: Service, drain_timeout_s: float) -> None:
        self._app = app
        self._service = service
        self._drain_timeout_s = drain_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or follow the lifespan protocol."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        try:
            await self._service.start()
        except TidegateError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._service.begin_drain()
        await self._service.close(self._drain_timeout_s)
        await send({"type": "lifespan.shutdown.complete"})


def application(settings: dict[str, Any], **deployment: Any) -> serve.Application:
    """Return an application for `serve.run`.

    `settings` are TIDEGATE_* settings without the prefix, such as `{"bundle": "/bundles/m/1"}`,
    before those in the replicas' environment; `deployment` is for `serve.deployment`.
    """

    def build_app() -> ASGIApp:
        read = Settings.read(settings)
        app, service, _ = build(read)
        return StartedByLifespan(app, service, read.drain_timeout_s)

    ingress = serve.ingress(build_app)()
    return serve.deployment(ingress, **{"name": "Tidegate", **deployment}).bind()
