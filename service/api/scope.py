"""The ASGI scope of a request, from its parsed head and its connection."""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Any

import httptools

from tidegate.service.api.connection import Connection
from tidegate.service.api.framing import Refusal
from tidegate.service.api.parser import RequestParser

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def scope_of(
    request: RequestParser, protocol: HttpToolsProtocol, connection: Connection
) -> HTTPScope:
    """Return the scope, with `connection` in it. Raises Refusal for a malformed target."""
    raw_path, query = _split(request.target)
    path, root_path = raw_path.decode("ascii"), protocol.root_path
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": protocol.asgi_version, "spec_version": "2.3"},
        "http_version": request.version,
        "server": protocol.server,
        "client": protocol.client,
        "scheme": protocol.scheme,
        "root_path": root_path,
        "method": request.method,
        "path": root_path + (urllib.parse.unquote(path) if "%" in path else path),
        "raw_path": root_path.encode("ascii") + raw_path,
        "query_string": query,
        "headers": request.headers,
        "state": protocol.app_state.copy(),
        Connection.KEY: connection,
    }
    return scope  # type: ignore[return-value]  # it has one more key


def _split(target: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a request target. Raises Refusal."""
    if target == b"*":
        return target, b""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserError:
        raise Refusal("The request target is malformed.") from None
    return url.path or b"/", url.query or b""
