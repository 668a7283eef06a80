"""Requests that a front end passes on: the process of the engine answers them as if they had
arrived there.

All that needs the one state of the service (models, drift, feedback, metrics, steps of a rollout)
is answered there, by the same code as without front ends. A body is passed on piece by piece as the
handler asks for it, so that its limits are the handler's.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterable
from typing import Any

from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidegate.service.api.connection import Connection
from tidegate.service.fronts.messages import Channel

_TEXTS = ("method", "path", "scheme", "http_version", "root_path")
_BYTES = ("raw_path", "query_string")
_UNNAMED = re.compile(r"\(\?P<\w+>")
KINDS = ("request", "receive", "body", "response", "piece", "gone")


class RelayClient:
    """The front end's side: an ASGI app that passes on every request."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count()
        self._exchanges: dict[int, _Exchange] = {}

    def take(self, kind: str, fields: dict[str, Any], content: bytes) -> None:
        """Take a message of the other side; one for a request that has ended is dropped."""
        if (exchange := self._exchanges.get(fields["to"])) is not None:
            exchange.arrived.put_nowait((kind, fields, content))

    def lost(self) -> None:
        """End all requests, which cannot be answered."""
        for exchange in self._exchanges.values():
            exchange.leave()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one request and its response."""
        number = next(self._numbers)
        exchange = self._exchanges[number] = _Exchange(number, self._channel, receive, send)
        connection = Connection.of(scope)
        connection.on_loss.add(exchange.leave)
        try:
            self._channel.send("request", to=number, **_described(scope))
            while await exchange.step():
                pass
        finally:
            connection.on_loss.discard(exchange.leave)
            exchange.end()
            del self._exchanges[number]


class _Exchange:
    """One request of a client, and its response."""

    def __init__(self, number: int, channel: Channel, receive: Receive, send: Send) -> None:
        self.arrived: asyncio.Queue[tuple[str, dict[str, Any], bytes]] = asyncio.Queue()
        self._number = number
        self._channel = channel
        self._receive = receive
        self._send = send
        self._reading: asyncio.Task[None] | None = None

    def leave(self) -> None:
        """End the request without a response."""
        self.arrived.put_nowait(("gone", {}, b""))

    def end(self) -> None:
        """Read no more of the body."""
        if self._reading is not None:
            self._reading.cancel()

    async def step(self) -> bool:
        """Do what the other side asks for next; return False after the last piece."""
        kind, fields, content = await self.arrived.get()
        if kind == "receive":
            # A response may come before the rest of the body, so the two do not wait for another.
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read())
        elif kind == "response":
            headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in fields["headers"]]
            start = {"type": "http.response.start", "status": fields["status"]}
            await self._send({**start, "headers": headers})
        elif kind == "piece":
            more = fields["more"]
            await self._send({"type": "http.response.body", "body": content, "more_body": more})
            return bool(more)
        else:
            self._channel.send("gone", to=self._number)
            return False
        return True

    async def _read(self) -> None:
        """Pass on the next piece of the body."""
        message = await self._receive()
        if message["type"] == "http.request":
            more = message.get("more_body", False)
            self._channel.send("body", message.get("body", b""), to=self._number, more=more)
        else:
            self._channel.send("gone", to=self._number)


class RelayServer:
    """The other side: runs requests of one front end through an ASGI app."""

    def __init__(self, app: ASGIApp, channel: Channel) -> None:
        self._app = app
        self._channel = channel
        self._requests: dict[int, _Relayed] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def in_progress(self) -> int:
        """Return how many requests are being answered."""
        return len(self._tasks)

    def take(self, kind: str, fields: dict[str, Any], content: bytes) -> None:
        """Take a message of the front end; one for a request that was answered is dropped."""
        number = fields["to"]
        if kind == "request":
            request = self._requests[number] = _Relayed(number, self._channel)
            task = asyncio.create_task(self._run(request, _scope_of(fields, request.connection)))
            self._tasks.add(task)  # otherwise the loop has the only reference, a weak one
            task.add_done_callback(self._tasks.discard)
        elif (known := self._requests.get(number)) is not None:
            known.take(kind, fields, content)

    def lost(self) -> None:
        """Tell every handler that its client is gone."""
        for request in self._requests.values():
            request.take("gone", {}, b"")

    async def _run(self, request: _Relayed, scope: Scope) -> None:
        try:
            await self._app(scope, request.receive, request.send)
        finally:
            del self._requests[request.number]


class _Relayed:
    """One request: its ASGI callables."""

    def __init__(self, number: int, channel: Channel) -> None:
        self.number = number
        self.connection = Connection()
        self._channel = channel
        self._arrived: asyncio.Queue[Message] = asyncio.Queue()

    def take(self, kind: str, fields: dict[str, Any], content: bytes) -> None:
        if kind == "body":
            self.connection.body_bytes += len(content)
            message = {"type": "http.request", "body": content, "more_body": fields["more"]}
        else:
            self.connection.end()
            message = {"type": "http.disconnect"}
        self._arrived.put_nowait(message)

    async def receive(self) -> Message:
        if self.connection.lost:
            return {"type": "http.disconnect"}
        if self._arrived.empty():
            self._channel.send("receive", to=self.number)
        return await self._arrived.get()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in message["headers"]]
            status = message["status"]
            self._channel.send("response", to=self.number, status=status, headers=headers)
        else:
            more = message.get("more_body", False)
            self._channel.send("piece", message.get("body", b""), to=self.number, more=more)


def _described(scope: Scope) -> dict[str, Any]:
    """Return what a scope has, as JSON can have it."""
    return {
        **{name: scope[name] for name in _TEXTS},
        **{name: scope[name].decode("latin-1") for name in _BYTES},
        "headers": [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]],
        "client": scope["client"],
        "server": scope["server"],
        "certificate": Connection.of(scope).certificate,
    }


def _scope_of(fields: dict[str, Any], connection: Connection) -> Scope:
    connection.certificate = fields["certificate"]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        **{name: fields[name] for name in _TEXTS},
        **{name: fields[name].encode("latin-1") for name in _BYTES},
        "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in fields["headers"]],
        "client": None if fields["client"] is None else tuple(fields["client"]),
        "server": None if fields["server"] is None else tuple(fields["server"]),
        "state": {},
        Connection.KEY: connection,
    }


class LocalRoutes:
    """An ASGI app that answers POST to some routes, and /livez, by one app; the rest by another."""

    def __init__(
        self, local: ASGIApp, other: ASGIApp, routes: Iterable[str], root_path: str
    ) -> None:
        """`routes` are the patterns of the local ones, which may have the prefix `root_path`."""
        self._local = local
        self._other = other
        forms = "|".join(compile_path(route)[0].pattern[1:-1] for route in routes)
        self._is_local = re.compile(f"(?:{re.escape(root_path)})?(?:{_UNNAMED.sub('(?:', forms)})")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        path = scope["path"]
        is_local = scope["method"] == "POST" and self._is_local.fullmatch(path) is not None
        is_local = is_local or path == "/livez"
        await (self._local if is_local else self._other)(scope, receive, send)
