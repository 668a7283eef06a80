"""HEAD and OPTIONS on every route, because load balancers and monitors send them as probes."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from tidegate.service.api.context import RequestContext
from tidegate.service.metrics.tables import ROUTES

OF_THE_SERVER = "GET, HEAD, OPTIONS, POST"  # the methods of its routes
_NO_CONTENT = 204


class Methods:
    """Handles HEAD as GET (the server omits the body), and OPTIONS with an Allow header."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "OPTIONS":
            await self._options(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, send)
        finally:
            if "route" in as_get:
                scope["route"] = as_get["route"]  # for the metrics and the log line

    async def _options(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowed = allow(self._app, scope["path"])
        if not allowed:
            await self._app(scope, receive, send)  # 404
            return
        if scope["path"] in ROUTES:
            RequestContext.of(scope).route = scope["path"]
        response = Response(status_code=_NO_CONTENT, headers={"Allow": allowed})
        await response(scope, receive, send)


def allow(app: FastAPI, path: str) -> str:
    """Return the Allow header of a path; "" if there is no such path."""
    if path in ("*", "/*"):  # the server as a whole
        return OF_THE_SERVER
    scope = {"type": "http", "path": path, "root_path": "", "headers": []}
    found = {method for method in ("GET", "POST", "PUT") if _has(app, {**scope, "method": method})}
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted({*found, "OPTIONS"})) if found else ""


def _has(app: FastAPI, scope: MutableMapping[str, Any]) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in app.router.routes)
