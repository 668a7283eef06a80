"""The receiver's HTTP API: three routes, and errors as RFC 9457 problems."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from tidegate.models.retrain import errors
from tidegate.models.retrain.access import BearerOnly
from tidegate.models.retrain.alerts import Notification
from tidegate.models.retrain.connection import server_of
from tidegate.models.retrain.receiver import Receiver
from tidegate.models.retrain.runner import Runner
from tidegate.service.api.problems import MEDIA_TYPE, TYPE_PREFIX
from tidegate.service.errors import TidegateError

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20  # 200 alerts of 5 kB
BODY_TIMEOUT_S = 10.0  # for the whole body

# Alertmanager repeats a notification at once after a 5xx, at the next group interval after a 4xx.
TABLE: dict[type[TidegateError], tuple[int, str, str]] = {
    errors.AlertsRefused: (400, "bad-request", "The request is malformed"),
    errors.AlertsTooLarge: (413, "upload-too-large", "The notification is too large"),
    errors.AlertsTooSlow: (408, "body-timeout", "The body did not arrive in time"),
    errors.TooManyFiled: (429, "too-many-requests", "Too many requests were filed this hour"),
    errors.NotFiled: (503, "not-filed", "The request cannot be filed now"),
}


def build(receiver: Receiver, runner: Runner | None, token: bytes | None = None) -> FastAPI:
    """Return the application with its routes; it closes `runner` when it shuts down.

    If `token` is given, every route except /livez requires it.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if runner:
                await run_in_threadpool(runner.close)

    app = FastAPI(
        title="Tidegate retraining requests",
        summary="Files a request with evidence when drift fires. It deploys nothing.",
        lifespan=lifespan,
        openapi_url=None,  # no schema, so no docs page that loads external scripts
    )

    @app.post("/alerts")
    async def alerts(request: Request) -> dict[str, object]:
        """Accept a notification from Alertmanager (webhook payload, version 4)."""
        notification = Notification.parse(await _body(request))
        return {"outcomes": await run_in_threadpool(receiver.take, notification)}

    @app.get("/requests")
    def requests() -> dict[str, object]:
        """List the newest requests and how their commands ended."""
        return {"requests": receiver.listing()}

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """Report that the process and its event loop are alive."""
        return {"status": "alive"}

    app.add_exception_handler(TidegateError, _problem)
    if token is not None:
        app.add_middleware(BearerOnly, token=token)
    return app


async def _body(request: Request) -> bytes:
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise errors.AlertsTooLarge(f"At most {MAX_BODY_BYTES} bytes are accepted.")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise errors.AlertsTooLarge(f"At most {MAX_BODY_BYTES} bytes are accepted.")
    except TimeoutError:
        raise errors.AlertsTooSlow(f"The body must arrive within {BODY_TIMEOUT_S:g} s.") from None
    return bytes(body)


async def _problem(_: Request, error: Exception) -> JSONResponse:
    status, code, title = TABLE[type(error)]  # type: ignore[index]  # registered for TidegateError
    log.warning("%d %s: %s", status, code, error)
    problem = {
        "type": TYPE_PREFIX + code,
        "title": title,
        "status": status,
        "detail": str(error),
        "code": code,
    }
    headers = (
        {"Connection": "close"} if status in {408, 413} else {}
    )  # the remaining body is not read
    if isinstance(error, errors.TooManyFiled):
        headers["Retry-After"] = str(error.retry_after_s)
    return JSONResponse(problem, status, headers, MEDIA_TYPE)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises OptionRefused if the address cannot be bound."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.OptionRefused(f"Cannot listen on {host}:{port}: {reason}.") from error


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""
    host, port = listener.getsockname()[:2]
    log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    server_of(app).run([listener])
