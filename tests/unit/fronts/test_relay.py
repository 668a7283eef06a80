"""A request that is passed on is answered as if it had arrived at the other side."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.unit.fronts.gone import Gone
from tidegate.service.api.connection import Connection
from tidegate.service.fronts.messages import Channel
from tidegate.service.fronts.relay import LocalRoutes, RelayClient, RelayServer

PATIENCE_S = 150.0


def scope(path: str = "/x", **changes: Any) -> Scope:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"a=\xff",
        "root_path": "",
        "scheme": "https",
        "http_version": "1.1",
        "headers": [(b"x-a", b"\xe9"), (b"x-a", b"2")],
        "client": ("192.0.2.1", 9),
        "server": ("192.0.2.2", 8000),
        Connection.KEY: Connection(),
        **changes,
    }


def play(app: ASGIApp, scene: Callable[[RelayClient, Channel], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            left, right = socket.socketpair()
            clients: list[RelayClient] = []
            servers: list[RelayServer] = []
            gone = Gone()
            front = Channel(
                lambda *message: clients[0].take(*message), gone.after(lambda: clients[0].lost())
            )
            back = Channel(
                lambda *message: servers[0].take(*message), gone.after(lambda: servers[0].lost())
            )
            clients.append(RelayClient(front))
            servers.append(RelayServer(app, back))
            await front.open(left)
            await back.open(right)
            try:
                await scene(clients[0], back)
                assert servers[0].in_progress == 0
            finally:
                front.close()
                back.close()
                await gone.both()

    asyncio.run(main())


class Client:
    """The ASGI callables of one request."""

    def __init__(self, *pieces: bytes) -> None:
        self.asked = 0
        self.sent: list[Message] = []
        self._pieces = list(pieces)
        self._left = asyncio.Event()

    async def receive(self) -> Message:
        self.asked += 1
        if not self._pieces:
            await self._left.wait()
            return {"type": "http.disconnect"}
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 418, "headers": [(b"x-b", b"\xe9")]})
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})


def test_a_response_comes_as_it_was_sent() -> None:
    async def scene(relay: RelayClient, _: Channel) -> None:
        client = Client(b"one", b"two" * 100_000, b"")
        await relay(scope(), client.receive, client.send)

        assert client.sent[0] == {
            "type": "http.response.start",
            "status": 418,
            "headers": [(b"x-b", b"\xe9")],
        }
        assert client.body == b"one" + b"two" * 100_000

    play(echo, scene)


def test_the_other_side_sees_the_request_as_it_arrived() -> None:
    seen: list[Scope] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def scene(relay: RelayClient, _: Channel) -> None:
        sent = scope("/a b")
        Connection.of(sent).certificate = "client-1"
        client = Client()
        await relay(sent, client.receive, client.send)

        (got,) = seen
        assert Connection.of(got).certificate == "client-1"
        assert {key: got[key] for key in sent if key != Connection.KEY} == {
            key: value for key, value in sent.items() if key != Connection.KEY
        }
        assert client.asked == 0  # the handler did not ask for the body

    play(look, scene)


def test_requests_do_not_wait_for_each_other() -> None:
    go = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await go.wait()
        else:
            go.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    async def scene(relay: RelayClient, _: Channel) -> None:
        clients = [Client(), Client()]
        await asyncio.gather(
            *(
                relay(scope(path), client.receive, client.send)
                for path, client in zip(("/slow", "/fast"), clients, strict=True)
            )
        )

        assert [client.body for client in clients] == [b"/slow", b"/fast"]

    play(slow, scene)


def test_a_client_that_leaves_is_reported_to_the_handler() -> None:
    left = asyncio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        Connection.of(scope).on_loss.add(left.set)
        assert (await receive())["type"] == "http.disconnect"

    async def scene(relay: RelayClient, _: Channel) -> None:
        sent, client = scope(), Client()
        task = asyncio.create_task(relay(sent, client.receive, client.send))
        while not client.asked:  # noqa: ASYNC110 - the other side asks
            await asyncio.sleep(0)
        Connection.of(sent).end()
        client._left.set()
        await left.wait()
        await task
        await asyncio.sleep(0.01)

        assert client.sent == []

    play(waiting, scene)


def test_a_response_does_not_wait_for_the_rest_of_a_body() -> None:
    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await receive()
        await send({"type": "http.response.start", "status": 408, "headers": []})
        await send({"type": "http.response.body"})

    async def scene(relay: RelayClient, _: Channel) -> None:
        client = Client()
        await relay(scope(), client.receive, client.send)

        assert client.sent[0]["status"] == 408

    play(impatient, scene)


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("/classify", True),
        ("GET /classify", False),
        ("/prefix/classify", True),
        ("/models/a b/classify", True),
        ("/models/a/b/classify", False),
        ("/models/a", False),
        ("/classify/", False),
        ("/other/classify", False),
        ("/livez", True),
    ],
)
def test_only_some_routes_are_answered_here(path: str, local: bool) -> None:
    answered: list[str] = []

    def by(name: str) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            answered.append(name)

        return app

    routes = LocalRoutes(
        by("here"), by("there"), ["/classify", "/models/{name}/classify"], "/prefix"
    )
    client = Client()
    method, _, path = path.rpartition(" /")
    sent = scope(f"/{path.removeprefix('/')}", method=method or "POST")
    asyncio.run(routes(sent, client.receive, client.send))

    assert answered == ["here" if local else "there"]
