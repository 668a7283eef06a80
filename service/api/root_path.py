"""Serve below a path prefix: a proxy may remove it from the request's path, or may not."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_MAX_PREFIX = 200


def is_prefix(text: str) -> bool:
    """Return whether a text is a path prefix, such as /models/tidegate."""
    return len(text) <= _MAX_PREFIX and _PREFIX.fullmatch(text) is not None


def prefix_of(root_path: str, forwarded: str) -> str:
    """Return the prefix for a client's links: the setting, or else X-Forwarded-Prefix if valid."""
    if root_path:
        return root_path
    forwarded = forwarded.strip().rstrip("/")
    return forwarded if is_prefix(forwarded) else ""


class RootPath:
    """Removes the prefix from the path of each request that has it."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        path, root_path = scope.get("path", ""), self._root_path
        if path == root_path or path.startswith(f"{root_path}/"):
            scope["path"] = path[len(root_path) :] or "/"
        await self._app(scope, receive, send)
