"""What a handler receives from the connection, with uvicorn's protocol and a fake transport."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from tests.unit.api.connecting import (
    PATIENCE_S,
    FakeTransport,
    Slow,
    connected,
    nothing_in_it,
    run,
    until,
    upload,
)
from tidegate.service.api.connection import Connection
from tidegate.service.api.parser import RequestParser
from tidegate.service.api.protocol import MAX_AHEAD_BYTES, WRITE_TIMEOUT_S, BoundedHttpProtocol
from tidegate.service.api.wire import Wire

HEAD_S = Wire().head_timeout_s


@pytest.mark.parametrize("rest", [10, 1 << 20])
def test_a_disconnect_after_the_upload_is_noticed(rest: int) -> None:
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

        config = Config(app, http=BoundedHttpProtocol, ws="none", lifespan="off", log_config=None)
        config.load()
        protocol = BoundedHttpProtocol(config=config, server_state=ServerState(), app_state={})
        transport = FakeTransport()
        protocol.connection_made(transport)
        head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (1 + rest)
        protocol.data_received(head + b"1")
        await began.wait()
        await asyncio.sleep(0)  # the handler waits for the rest
        protocol.data_received(b"2" * rest)
        await read.wait()

        assert transport.reading
        protocol.connection_lost(None)
        assert lost.is_set()

    asyncio.run(asyncio.wait_for(scene(), PATIENCE_S))


def written(request: bytes, app: ASGIApp) -> list[bytes]:
    """Return each write of the protocol for one request."""
    transport = FakeTransport()

    async def scene() -> None:
        config = Config(app, http=BoundedHttpProtocol, ws="none", lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        protocol = BoundedHttpProtocol(config=config, server_state=state, app_state={})
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


def test_the_head_is_written_with_the_first_piece_of_the_body() -> None:
    first, second = written(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", two_pieces)

    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.endswith(b"\r\n\r\n5\r\nfirst\r\n")
    assert second == b"6\r\nsecond\r\n0\r\n\r\n"


def test_100_continue_is_written_at_once() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    interim, first, _ = written(head + b"1", two_pieces)

    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert first.endswith(b"first\r\n")


@pytest.mark.parametrize(
    ("method", "app"), [(b"HEAD", two_pieces), (b"GET", breaks_off), (b"GET", nothing_in_it)]
)
def test_a_head_without_a_body_is_written(method: bytes, app: ASGIApp) -> None:
    (head,) = written(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n", app)

    assert head.startswith(b"HTTP/1.1 20")
    assert head.endswith(b"\r\n\r\n")


def test_requests_sent_ahead_are_bounded_and_not_started() -> None:
    async def scene() -> None:
        slow = Slow()
        protocol, transport = connected(slow)
        protocol.data_received(upload(b"1"))
        sent = 0
        while transport.reading:
            protocol.data_received(upload(bytes(10_000)) * 3)
            sent += 3
            await asyncio.sleep(0)

        assert sent * 10_000 < 2 * MAX_AHEAD_BYTES
        assert slow.started == 1
        slow.may_answer.set()
        await until(lambda: len(transport.written) == 1 + sent)
        assert transport.reading

    run(scene())


@pytest.mark.lengthy
def test_ten_thousand_requests_sent_ahead_are_answered_one_by_one() -> None:
    async def scene() -> None:
        slow = Slow()
        slow.may_answer.set()
        protocol, transport = connected(slow)
        protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000)
        await until(lambda: len(transport.written) == 10_000)

    run(scene())


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (b"", HEAD_S),
        (b"GET / HT", HEAD_S),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 75),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET", HEAD_S),
        (upload(b"123")[:-1], 60),
    ],
    ids=["nothing", "part of a head", "one request", "one request and a part", "part of a body"],
)
def test_a_silent_client_is_closed_in_time(sent: bytes, seconds: float) -> None:
    async def scene() -> None:
        slow = Slow()
        slow.may_answer.set()
        protocol, transport = connected(slow)
        if sent:
            protocol.data_received(sent)
        await until(lambda: len(transport.written) == sent.count(b"GET / HTTP"))
        now = asyncio.get_running_loop().time()
        protocol.check_time(now + seconds - 5)
        early = transport.closed
        protocol.check_time(now + seconds + 1)
        assert (early, transport.closed) == (False, True)
        protocol.connection_lost(None)

    run(scene())


def test_a_client_that_does_not_read_its_answer_is_disconnected() -> None:
    async def scene() -> None:
        protocol, transport = connected(Slow())
        protocol.data_received(upload(b"1"))
        protocol.pause_writing()
        now = asyncio.get_running_loop().time()
        protocol.check_time(now + WRITE_TIMEOUT_S - 1)
        early = transport.aborted
        protocol.check_time(now + WRITE_TIMEOUT_S + 1)
        assert (early, transport.aborted) == (False, True)
        protocol.connection_lost(None)

    run(scene())


def test_the_end_of_input_right_after_a_request_is_not_a_disconnect() -> None:
    async def scene() -> None:
        protocol, _ = connected(Slow())
        protocol.data_received(upload(b"1"))
        assert protocol.eof_received()

        partial, _ = connected(Slow())
        partial.data_received(upload(b"12")[:-1])
        assert not partial.eof_received()

    run(scene())


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 64, 4096])
@pytest.mark.parametrize("offer", [b"", b"Connection: upgrade\r\nUpgrade: h2c\r\n"])
def test_requests_do_not_depend_on_how_the_bytes_are_split(step: int, offer: bytes) -> None:
    blank = b"\r\n\r\n\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nHost: x\r\n" + offer
    stream = b"".join(
        [
            head + b"Content-Length: %d\r\n\r\n" % len(blank) + blank,
            head + b"Transfer-Encoding: chunked\r\n\r\n8\r\n" + blank + b"\r\n0\r\nA: b\r\n\r\n",
            head + b"\r\n",
            b"\r\n" + head + b"Content-Length: 0\r\n\r\n",
        ]
    )
    seen = Seen()
    parser = RequestParser(seen)
    for start in range(0, len(stream), step):
        piece, at = stream[start : start + step], 0
        while at < len(piece):
            at = parser.feed(piece, at)

    assert seen.bodies == [blank, blank, b"", b""]
    assert parser.is_between


class Seen:
    """Collects the bodies of the parsed requests."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self._body = b""

    def on_head(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_end(self) -> None:
        self.bodies.append(self._body)
