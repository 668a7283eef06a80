"""Access with a token or from this machine only, and time limits for slow senders."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import stat
from collections.abc import AsyncIterator, MutableMapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tidegate.models.retrain import app, connection
from tidegate.models.retrain.access import make_token, read_token, require_loopback
from tidegate.models.retrain.connection import BoundedWork, server_of
from tidegate.models.retrain.errors import OptionRefused
from tidegate.models.retrain.folder import RequestFolder
from tidegate.models.retrain.prometheus import Prometheus
from tidegate.models.retrain.receiver import Receiver
from tidegate.service.api.parser import MAX_HEAD_BYTES
from tidegate.service.cli import main

TOKEN = b"a-secret"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def receiver(folder: Path) -> Receiver:
    requests = RequestFolder(folder, timedelta(days=1))
    requests.open()
    return Receiver(requests, Prometheus("http://127.0.0.1:1"), None, 1, lambda path: None)


async def _unreadable() -> AsyncIterator[bytes]:
    yield _fail()


def _fail() -> bytes:
    raise AssertionError("the body was read")


def _ask(folder: Path, method: str, route: str, *sent: tuple[str, str]) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app.build(receiver(folder), None, TOKEN))
        async with httpx.AsyncClient(transport=transport, base_url="http://retrain") as client:
            body = _unreadable() if method == "POST" else None
            return await client.request(method, route, content=body, headers=sent)

    return asyncio.run(ask())


@pytest.mark.parametrize("route", ["/alerts", "/nowhere"])
@pytest.mark.parametrize(
    "sent",
    [
        [],
        ["Bearer wrong"],
        ["Bearer"],
        ["a-secret"],
        ["Basic a-secret"],
        ["Bearer a-secret", "Bearer a-secret"],
        ["Bearer a-secre"],
    ],
)
def test_without_the_token_401_is_answered_before_the_body_is_read(
    tmp_path: Path, route: str, sent: list[str]
) -> None:
    answer = _ask(tmp_path, "POST", route, *(("Authorization", value) for value in sent))

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "unauthorized"


def test_the_bearer_is_served_and_health_is_open(tmp_path: Path) -> None:
    sent = ("Authorization", "bearer a-secret")

    assert _ask(tmp_path, "GET", "/requests", sent).json() == {"requests": []}
    assert _ask(tmp_path, "GET", "/livez").json() == {"status": "alive"}
    assert _ask(tmp_path, "GET", "/requests").status_code == 401


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"\xff", b"x" * 5000])
def test_a_file_without_a_token_refuses_the_start(
    tmp_path: Path,
    content: bytes,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tidegate.service.logs.configure", lambda *_: None)
    (tmp_path / "token").write_bytes(content)
    words = ["--out", str(tmp_path / "r"), "--port", "0", "--token-file", str(tmp_path / "token")]

    assert main(["retrain-request", *words]) == 1
    printed = capsys.readouterr().err
    assert "--token-file" in printed
    assert printed.count("\n") == 1


def test_a_missing_token_is_an_error_and_a_made_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(OptionRefused, match="No such file"):
        read_token(path)

    make_token(path)
    made = read_token(path)
    make_token(path)

    assert read_token(path) == made
    assert len(made) >= 32
    assert stat.S_IMODE(path.stat().st_mode) & 0o027 == 0
    assert [p.name for p in tmp_path.iterdir()] == ["token"]


@pytest.mark.parametrize(("host", "is_allowed"), [("127.0.0.1", True), ("0.0.0.0", False)])  # noqa: S104
def test_without_a_token_only_loopback_is_listened_on(host: str, is_allowed: bool) -> None:
    with app.listen(host, 0) as listener:
        if is_allowed:
            require_loopback(listener)
        else:
            with pytest.raises(OptionRefused, match="--token-file"):
                require_loopback(listener)


async def _talk(folder: Path, sent: bytes, head_timeout_s: float = 30.0) -> bytes:
    """Send and return all that is answered until the receiver closes the connection."""
    async with _serving(folder, head_timeout_s) as (reader, writer):
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), 30)


@contextlib.asynccontextmanager
async def _serving(
    folder: Path, head_timeout_s: float = 30.0
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Start a receiver, and connect to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = server_of(app.build(receiver(folder), None, TOKEN), head_timeout_s)
        serving = asyncio.create_task(server.serve([listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        yield reader, writer
        writer.close()
        server.should_exit = True
        await serving


@pytest.mark.lengthy
def test_a_body_that_does_not_arrive_is_408(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "BODY_TIMEOUT_S", 0.05)
    head = b"POST /alerts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n" % TOKEN
    sent = head + b"Content-Length: 100\r\n\r\n{"

    assert asyncio.run(_talk(tmp_path, sent)).startswith(b"HTTP/1.1 408 ")


@pytest.mark.lengthy
@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost:"])
def test_a_head_that_does_not_arrive_closes_the_connection(tmp_path: Path, sent: bytes) -> None:
    assert asyncio.run(_talk(tmp_path, sent, head_timeout_s=0.05)) == b""


@pytest.mark.lengthy
def test_a_head_that_does_not_end_is_refused(tmp_path: Path) -> None:
    sent = b"GET /livez HTTP/1.1\r\nX: " + b"x" * (MAX_HEAD_BYTES + 1)

    assert asyncio.run(_talk(tmp_path, sent)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.lengthy
def test_trailers_that_do_not_end_are_refused_without_the_token(tmp_path: Path) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"

    answered = asyncio.run(_talk(tmp_path, head + b"a:\r\n" * 100_000))

    assert len(answered) < 10_000  # it hangs up; before that, it may have answered


@pytest.mark.lengthy
def test_requests_that_are_sent_ahead_wait_unread(tmp_path: Path) -> None:
    async def scene() -> None:
        async with _serving(tmp_path) as (_, writer):
            sent, flood = 0, LIVEZ * 1000
            with contextlib.suppress(TimeoutError):  # it stops reading
                while sent < 100 << 20:
                    writer.write(flood)
                    await asyncio.wait_for(writer.drain(), 1)
                    sent += len(flood)
            assert sent < 50 << 20
            writer.transport.abort()

    asyncio.run(scene())


@pytest.mark.lengthy
def test_requests_one_after_the_other_are_all_answered(tmp_path: Path) -> None:
    async def scene() -> None:
        async with _serving(tmp_path) as (reader, writer):
            for _ in range(3):
                writer.write(LIVEZ)
                assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")

    asyncio.run(scene())


@pytest.mark.lengthy
def test_an_offered_upgrade_is_ignored_and_its_body_is_read(tmp_path: Path) -> None:
    head = b"POST /alerts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n" % TOKEN
    offer = b"Connection: upgrade, close\r\nUpgrade: h2c\r\n"

    answered = asyncio.run(_talk(tmp_path, head + offer + b"Content-Length: 3\r\n\r\n[1]" + LIVEZ))

    assert answered.startswith(b"HTTP/1.1 400 ")
    assert b"bad-request" in answered


@pytest.mark.lengthy
def test_a_read_that_ends_in_the_next_head_is_not_counted_as_head(tmp_path: Path) -> None:
    head = b"POST /alerts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n" % TOKEN
    body = b"[%s]" % (b" " * 100_000)
    last = LIVEZ.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    first = head + b"Content-Length: %d\r\n\r\n" % len(body) + body

    answered = asyncio.run(_talk(tmp_path, first + last))

    assert re.findall(rb"HTTP/1\.1 (\d+) ", answered) == [b"400", b"200"]


@pytest.mark.lengthy
def test_one_connection_too_many_is_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_MAX_CONNECTIONS", 1)

    async def scene() -> None:
        async with _serving(tmp_path) as (reader, writer):
            writer.write(LIVEZ)
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
            address = writer.get_extra_info("peername")
            second, other = await asyncio.open_connection(*address)
            assert (await asyncio.wait_for(second.read(), 30)).startswith(b"HTTP/1.1 503 ")
            other.close()

    asyncio.run(scene())


def test_requests_whose_clients_have_left_count_until_they_end() -> None:
    async def scene() -> None:
        may_end, statuses = asyncio.Event(), []

        async def slow(*_: object) -> None:
            await may_end.wait()

        async def send(message: MutableMapping[str, Any]) -> None:
            statuses.append(message.get("status"))

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.disconnect"}

        bounded = BoundedWork(slow, 1)
        first = asyncio.create_task(bounded({"type": "http"}, receive, send))
        await asyncio.sleep(0)
        await bounded({"type": "http"}, receive, send)
        assert statuses[0] == 503
        may_end.set()
        await first
        await bounded({"type": "http"}, receive, send)
        assert len(statuses) == 2

    asyncio.run(scene())
