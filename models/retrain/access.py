"""Access to the receiver: a bearer token or, without one, connections from this machine only."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tidegate.models.retrain.errors import OptionRefused
from tidegate.service import tokens
from tidegate.service.api.access import has_token
from tidegate.service.api.problems import MEDIA_TYPE, TYPE_PREFIX

log = logging.getLogger(__name__)

_OPEN = "/livez"  # open, for health checks without a token


def read_token(path: Path) -> bytes:
    """Return the token in the file, stripped of white space. Raises OptionRefused."""
    try:
        return tokens.read_token(path)
    except ValueError as error:
        raise OptionRefused(f"--token-file {path}: {error}.") from error


def make_token(path: Path) -> None:
    """Write a random token, readable by the owner and the group, unless the file exists.

    Raises OSError.
    """
    if path.exists():
        return
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(descriptor)
        os.link(draft, path)  # atomic, and never replaces a file
    except FileExistsError:  # another receiver created it first; use that one
        return
    finally:
        draft.unlink(missing_ok=True)


def require_loopback(listener: socket.socket) -> None:
    """Raise OptionRefused unless only this machine can connect."""
    host = listener.getsockname()[0]
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    if not (mapped or address).is_loopback:
        raise OptionRefused(
            f"--host {host}: without a token, the receiver listens on loopback only. Give "
            "--token-file FILE, and set the same file in Alertmanager's "
            "http_config.authorization.credentials_file."
        )


class BearerOnly:
    """Answers 401 to requests without the token, before reading the body."""

    def __init__(self, app: ASGIApp, token: bytes) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or answer 401."""
        is_open = scope["type"] != "http" or scope["path"] == _OPEN
        if is_open or has_token(scope, self._token):
            await self._app(scope, receive, send)
            return
        log.warning("401 unauthorized: the token is missing or wrong")
        await _unauthorized()(scope, receive, send)


def _unauthorized() -> JSONResponse:
    problem = {
        "type": TYPE_PREFIX + "unauthorized",
        "title": "The token is missing or wrong",
        "status": 401,
        "detail": "Send the receiver's token: Authorization: Bearer TOKEN.",
        "code": "unauthorized",
    }
    # The body is not read, so the connection must close.
    headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
    return JSONResponse(problem, 401, headers, MEDIA_TYPE)
