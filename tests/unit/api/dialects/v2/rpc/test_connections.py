"""The connections of gRPC's clients are bounded, with calls and without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from starlette.types import Receive, Scope, Send

from tidegate.service.api.crowd import Connections
from tidegate.service.api.dialects.v2.rpc import server as rpc_server
from tidegate.service.api.dialects.v2.rpc.messages import MESSAGES
from tidegate.service.api.dialects.v2.rpc.server import RpcServer
from tidegate.service.api.limits import HttpLimits
from tidegate.service.api.wire import Wire
from tidegate.service.lifecycle import Service

HOST = "127.0.0.1"
LIMITS = HttpLimits(1 << 20, 4 << 20, 30, 4, 2, 60)
PATIENCE_S = 150.0
# The start of HTTP/2 (RFC 9113, 3.4), with empty settings.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


class HeldRoad:
    """Answers a call when it is released."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.started = asyncio.Semaphore(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started.release()
        await self.released.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def listening(road: Any, wire: Wire, most: int = 100) -> AsyncIterator[int]:
    service = cast("Service", SimpleNamespace())
    server = RpcServer(road, service, LIMITS, wire, most)
    port = await server.start([HOST], 0)
    try:
        yield port
    finally:
        await server.stop(0)


@asynccontextmanager
async def calling(port: int) -> AsyncIterator[Callable[[], Any]]:
    """Yield what starts a call on a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(f"{HOST}:{port}", options) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        request = MESSAGES["ServerLiveRequest"]().SerializeToString()
        yield lambda: asyncio.ensure_future(method(request, timeout=PATIENCE_S))


def test_a_connection_counts_with_those_of_http_while_it_has_a_call() -> None:
    shed: list[bool] = []

    async def scenario() -> None:
        road = HeldRoad()
        wire = Wire(on_shed=lambda: shed.append(True), connections=Connections(2))
        assert wire.connections.open(HOST)  # one of HTTP
        async with listening(road, wire) as port, calling(port) as first, calling(port) as second:
            held = [first(), first()]  # one connection
            for _ in held:
                await asyncio.wait_for(road.started.acquire(), PATIENCE_S)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await second()
            road.released.set()
            await asyncio.gather(*held)
            await second()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "overloaded: Too many open connections."
        assert caught.value.trailing_metadata()["grpc-retry-pushback-ms"] == "1000"
        assert wire.connections.in_all == 1

    asyncio.run(scenario())

    assert shed == [True]


def test_connections_without_calls_are_bounded_in_number() -> None:
    async def scenario() -> None:
        async with listening(HeldRoad(), Wire(), most=2) as port:
            opened = [await asyncio.open_connection(HOST, port) for _ in range(3)]
            ended = [asyncio.ensure_future(reader.read()) for reader, _ in opened]
            done, left = await asyncio.wait(
                ended, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
            assert (len(done), len(left)) == (1, 2)
            for _, writer in opened:
                writer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("sent", [b"", PREFACE], ids=["nothing", "no call"])
def test_a_connection_without_calls_ends(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_server, "HANDSHAKE_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        async with listening(HeldRoad(), Wire(keep_alive_s=0.2)) as port:
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(sent)
            await asyncio.wait_for(reader.read(), PATIENCE_S)
            writer.close()

    asyncio.run(scenario())
