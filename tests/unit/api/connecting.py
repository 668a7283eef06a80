"""A protocol on a fake transport, and handlers for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from tidegate.service.api.protocol import BoundedHttpProtocol, bounded_http
from tidegate.service.api.wire import Wire

PATIENCE_S = 150.0


class FakeTransport(asyncio.Transport):
    """Records what is written, and whether it is reading, closed or aborted."""

    def __init__(self, client: str = "192.0.2.9") -> None:
        super().__init__()
        self.client = client
        self.reading = True
        self.closed = self.aborted = False
        self.written: list[bytes] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self.client, 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def connected(
    app: ASGIApp, wire: Wire | None = None, client: str = "192.0.2.9"
) -> tuple[BoundedHttpProtocol, FakeTransport]:
    kind = bounded_http(wire or Wire())
    config = Config(app, http=kind, ws="none", lifespan="off", log_config=None)
    config.load()
    protocol = kind(config=config, server_state=ServerState(), app_state={})
    transport = FakeTransport(client)
    protocol.connection_made(transport)
    return protocol, transport


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, PATIENCE_S))


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - the transport has no event
        await asyncio.sleep(0)


def upload(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Slow:
    """A handler that reads its request and answers once `may_answer` is set."""

    def __init__(self) -> None:
        self.started, self.may_answer = 0, asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started += 1
        while (message := await receive())["type"] != "http.disconnect":
            if not message["more_body"]:
                break
        await self.may_answer.wait()
        await nothing_in_it(scope, receive, send)


async def nothing_in_it(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})
