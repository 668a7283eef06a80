"""What the connection tells a handler, on uvicorn's own protocol with a fake transport."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from service.api.protocol import BoundedHttp, Connection

PATIENCE_S = 30.0


class FakeTransport(asyncio.Transport):
    """Remembers what is written and whether it is read from, and loses its peer when told."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.written: list[bytes] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        self.written.append(data)

    def close(self) -> None:
        return

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@pytest.mark.parametrize("rest", [10, 1 << 20])
def test_a_client_that_leaves_after_its_upload_is_noticed(rest: int) -> None:
    async def scene() -> None:
        began, read, lost = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            connection = Connection.of(scope)
            connection.on_loss.add(lost.set)
            more = True
            while more:
                more = (await receive())["more_body"]
                began.set()
            assert connection.body_is_here
            read.set()
            await lost.wait()

        config = Config(app, http=BoundedHttp, ws="none", lifespan="off", log_config=None)
        config.load()
        protocol = BoundedHttp(config=config, server_state=ServerState(), app_state={})
        transport = FakeTransport()
        protocol.connection_made(transport)
        head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (1 + rest)
        protocol.data_received(head + b"1")
        await began.wait()
        await asyncio.sleep(0)  # the handler asks for the rest
        protocol.data_received(b"2" * rest)
        await read.wait()

        assert transport.reading
        protocol.connection_lost(None)
        assert lost.is_set()

    asyncio.run(asyncio.wait_for(scene(), PATIENCE_S))


def written(request: bytes, app: ASGIApp) -> list[bytes]:
    """Return what one request made the protocol write, piece by piece."""
    transport = FakeTransport()

    async def scene() -> None:
        config = Config(app, http=BoundedHttp, ws="none", lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        protocol = BoundedHttp(config=config, server_state=state, app_state={})
        protocol.connection_made(transport)
        protocol.data_received(request)
        await asyncio.gather(*state.tasks)
        protocol.connection_lost(None)

    asyncio.run(asyncio.wait_for(scene(), PATIENCE_S))
    return transport.written


async def two_pieces(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    await send({"type": "http.response.body", "body": b"second"})


async def breaks_off(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("a bug")


async def nothing_in_it(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def test_the_head_goes_with_the_first_piece_of_the_body() -> None:
    first, second = written(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", two_pieces)

    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.endswith(b"\r\n\r\n5\r\nfirst\r\n")
    assert second == b"6\r\nsecond\r\n0\r\n\r\n"


def test_a_client_that_waits_for_100_continue_is_told_at_once() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    told, first, _ = written(head + b"1", two_pieces)

    assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert first.endswith(b"first\r\n")


@pytest.mark.parametrize(
    ("method", "app"), [(b"HEAD", two_pieces), (b"GET", breaks_off), (b"GET", nothing_in_it)]
)
def test_a_head_without_a_body_is_written_all_the_same(method: bytes, app: ASGIApp) -> None:
    (head,) = written(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n", app)

    assert head.startswith(b"HTTP/1.1 20")
    assert head.endswith(b"\r\n\r\n")
