"""TLS on a real server in this process, on the loops that it may run on."""

from __future__ import annotations

import asyncio
import logging
import select
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.certificates import Authority, Issued
from tests.unit.api.connecting import PATIENCE_S, until, upload
from tidegate.service.addresses import listen
from tidegate.service.api import handshake
from tidegate.service.api.connection import Connection
from tidegate.service.api.crowd import Connections
from tidegate.service.api.server import Server
from tidegate.service.api.tls import Tls, TlsFiles
from tidegate.service.api.wire import Wire

MIB = 1 << 20
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
pytestmark = [
    pytest.mark.lengthy,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def issued(authority: Authority) -> Issued:
    return authority.issue("server")


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def run_on(scene: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(scene, PATIENCE_S))

    return run_on


@asynccontextmanager
async def serving(app: ASGIApp, wire: Wire) -> AsyncIterator[int]:
    """Serve until the end of the block; yield the port."""
    (listener,) = listen(["127.0.0.1"], 0)
    config = uvicorn.Config(app, ws="none", log_config=None, lifespan="off")
    server = Server(config, wire)
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = server.force_exit = True
        await task


def loaded(issued: Issued, client_ca: Path | None = None) -> Tls:
    tls = Tls(TlsFiles(issued.certificate, issued.key, client_ca), admin_port=None)
    tls.load()
    return tls


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the body that was sent, and the name in the client's certificate."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    name = Connection.of(scope).certificate.encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"x-name", name)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without reading the body."""
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": b"no"})


async def ask(port: int, context: ssl.SSLContext, request: bytes) -> bytes:
    """Send a request on a connection of its own, and return the head and body of the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head + await reader.readexactly(length)
    finally:
        writer.transport.abort()


def test_a_body_and_a_response_of_many_records_are_whole(
    run: Callable[[Coroutine[Any, Any, None]], None], authority: Authority, issued: Issued
) -> None:
    async def scene() -> None:
        async with serving(echo, Wire(tls=loaded(issued))) as port:
            body = bytes(range(256)) * (8 * MIB // 256)
            answer = await ask(port, authority.client_context(), upload(body))
            assert answer.endswith(body)

    run(scene())


@pytest.mark.parametrize("from_memory", [False, True])
def test_the_name_in_the_certificate_of_a_client_reaches_the_handler(
    run: Callable[[Coroutine[Any, Any, None]], None],
    authority: Authority,
    issued: Issued,
    *,
    from_memory: bool,
) -> None:
    tls = loaded(issued, authority.path)
    if from_memory:
        gone = Path("gone")
        given, tls = tls.pem, Tls(TlsFiles(gone, gone, gone), admin_port=None)
        tls.use(given)
        assert tls.pem == given

    async def scene() -> None:
        async with serving(echo, Wire(tls=tls)) as port:
            known = authority.client_context(authority.issue("camera-7"))
            assert b"x-name: camera-7\r\n" in await ask(port, known, upload(b""))
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await ask(port, authority.client_context(), upload(b""))

    run(scene())


def test_an_answer_before_the_end_of_the_body_is_not_lost(
    run: Callable[[Coroutine[Any, Any, None]], None], authority: Authority, issued: Issued
) -> None:
    async def scene() -> None:
        async with serving(refuse, Wire(tls=loaded(issued), draining=True)) as port:
            for _ in range(10):
                context = authority.client_context()
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                writer.write(upload(bytes(4 * MIB))[: 3 * MIB])
                await writer.drain()
                answer = await reader.readuntil(b"no")
                assert answer.startswith(b"HTTP/1.1 401 ")
                writer.transport.abort()

    run(scene())


def test_a_client_that_sends_on_after_an_early_answer_can_read_it(
    run: Callable[[Coroutine[Any, Any, None]], None], authority: Authority, issued: Issued
) -> None:
    context = authority.client_context()
    # TLS 1.3 sends tickets after the handshake, so that something arrives before the answer.
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def send_on(port: int) -> bytes:
        """Send the body once the answer has arrived, and only then read it."""
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(upload(bytes(4 * MIB))[:1000])
            select.select([connection], [], [], PATIENCE_S)
            for _ in range(3):
                connection.sendall(bytes(MIB))
            return connection.recv(1 << 16)

    async def scene() -> None:
        async with serving(refuse, Wire(tls=loaded(issued), draining=True)) as port:
            answer = await asyncio.to_thread(send_on, port)
            assert answer.startswith(b"HTTP/1.1 401 ")

    run(scene())


def test_the_end_of_input_closes_the_connection_without_a_warning(
    run: Callable[[Coroutine[Any, Any, None]], None],
    authority: Authority,
    issued: Issued,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        wire = Wire(tls=loaded(issued))
        async with serving(echo, wire) as port:
            context = authority.client_context()
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(upload(b"x") * 2)
            assert (await reader.readuntil(b"\r\n\r\nx")).startswith(b"HTTP/1.1 200 ")
            writer.close()
            await until(lambda: not wire.connections.in_all)

    run(scene())
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_a_handshake_counts_as_a_connection(
    run: Callable[[Coroutine[Any, Any, None]], None], authority: Authority, issued: Issued
) -> None:
    async def scene() -> None:
        shed: list[int] = []
        connections = Connections(max_per_client=2)
        wire = Wire(tls=loaded(issued), connections=connections, on_shed=lambda: shed.append(1))
        async with serving(echo, wire) as port:
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            await until(lambda: connections.in_all == 2)
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await ask(port, authority.client_context(), upload(b""))
            assert shed == [1]

            for _, writer in silent:
                writer.transport.abort()
            await until(lambda: not connections.in_all)
            assert b"200 OK" in await ask(port, authority.client_context(), upload(b""))

    run(scene())


def test_a_handshake_that_does_not_end_is_ended(
    run: Callable[[Coroutine[Any, Any, None]], None],
    issued: Issued,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handshake, "HANDSHAKE_TIMEOUT_S", 0.05)

    async def scene() -> None:
        connections = Connections()
        async with serving(echo, Wire(tls=loaded(issued), connections=connections)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with suppress(ConnectionError):
                assert await reader.read() == b""
            await until(lambda: not connections.in_all)
            writer.transport.abort()

    run(scene())


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\xff\xff" * 99]
)
def test_a_client_that_does_not_speak_tls_is_disconnected(
    run: Callable[[Coroutine[Any, Any, None]], None], issued: Issued, sent: bytes
) -> None:
    async def scene() -> None:
        wire = Wire(tls=loaded(issued))
        async with serving(echo, wire) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            try:
                answer = await reader.read()
            except ConnectionError:
                answer = b""
            assert b"HTTP" not in answer
            writer.transport.abort()
            await until(lambda: not wire.connections.in_all)

    run(scene())


def test_a_new_certificate_is_for_new_connections_and_a_bad_one_for_none(
    run: Callable[[Coroutine[Any, Any, None]], None], authority: Authority, issued: Issued
) -> None:
    tls = loaded(issued)
    other = authority.issue("other")

    async def serial(port: int) -> int:
        context = authority.client_context()
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        certificate: dict[str, Any] = writer.get_extra_info("peercert")
        writer.transport.abort()
        return int(certificate["serialNumber"], 16)

    async def scene() -> None:
        async with serving(echo, Wire(tls=tls)) as port:
            context = authority.client_context()
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            assert await serial(port) == issued.serial

            shutil.copy(other.certificate, issued.certificate)
            with pytest.raises(ValueError, match="are not a certificate and its unencrypted key"):
                tls.load()
            assert await serial(port) == issued.serial
            shutil.copy(other.key, issued.key)
            tls.load()
            assert await serial(port) == other.serial

            writer.write(upload(b"still here"))
            await reader.readuntil(b"still here")
            writer.transport.abort()

    run(scene())


def test_an_encrypted_key_is_refused_without_asking_for_its_password(
    tmp_path: Path, issued: Issued
) -> None:
    from cryptography.hazmat.primitives import serialization as s  # noqa: PLC0415

    key = s.load_pem_private_key(issued.key.read_bytes(), None)
    encrypted = key.private_bytes(
        s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret")
    )
    issued.key.write_bytes(encrypted)

    with pytest.raises(ValueError, match="the key is encrypted"):
        loaded(issued)


def test_a_file_without_authorities_is_refused(tmp_path: Path, issued: Issued) -> None:
    (tmp_path / "empty").write_text("")

    with pytest.raises(ValueError, match="has no certificates"):
        loaded(issued, tmp_path / "empty")
