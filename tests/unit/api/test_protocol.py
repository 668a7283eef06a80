"""What the connection tells a handler, on uvicorn's own protocol with a fake transport."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from service.api.protocol import BoundedHttp, Connection

PATIENCE_S = 30.0


class FakeTransport(asyncio.Transport):
    """Remembers whether it is read from, and loses its peer when told."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        return

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
