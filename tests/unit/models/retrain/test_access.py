"""A token in a file, or this machine only; and a sender that takes its time is not waited for."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import uvicorn

from models.__main__ import main
from models.retrain import app
from models.retrain.access import make_token, read_token, require_loopback
from models.retrain.connection import MAX_HEAD_BYTES, BoundedConnection
from models.retrain.errors import OptionRefused
from models.retrain.folder import RequestFolder
from models.retrain.prometheus import Prometheus
from models.retrain.receiver import Receiver

TOKEN = b"a-secret"


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
    monkeypatch.setattr("service.logs.configure", lambda *_: None)
    (tmp_path / "token").write_bytes(content)
    words = ["--out", str(tmp_path / "r"), "--port", "0", "--token-file", str(tmp_path / "token")]

    assert main(["retrain-request", *words]) == 1
    told = capsys.readouterr().err
    assert "--token-file" in told
    assert told.count("\n") == 1


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


def test_a_token_is_read_where_folders_cannot_be_opened_as_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS, and also through the links that secrets are mounted as."""
    monkeypatch.delattr(os, "O_PATH", raising=False)
    (tmp_path / "token").write_bytes(TOKEN)
    (tmp_path / "link").symlink_to("token")

    assert read_token(tmp_path / "link") == TOKEN


@pytest.mark.parametrize(("host", "is_allowed"), [("127.0.0.1", True), ("0.0.0.0", False)])  # noqa: S104
def test_without_a_token_only_loopback_is_listened_on(host: str, is_allowed: bool) -> None:
    with app.listen(host, 0) as listener:
        if is_allowed:
            require_loopback(listener)
        else:
            with pytest.raises(OptionRefused, match="--token-file"):
                require_loopback(listener)


async def _talk(folder: Path, *sent: bytes) -> bytes:
    """Send each after the answer to the one before; return the last, until the end of input."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        built = app.build(receiver(folder), None)
        config = uvicorn.Config(built, http=BoundedConnection, ws="none", log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        for request in sent[:-1]:
            writer.write(request)
            await asyncio.wait_for(reader.readuntil(b"}"), 30)
        writer.write(sent[-1])
        try:
            answered = await asyncio.wait_for(reader.read(), 30)
        except ConnectionResetError:
            answered = b""
        writer.close()
        server.should_exit = True
        await serving
    return answered


def test_a_body_that_does_not_arrive_is_408(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "BODY_TIMEOUT_S", 0.05)
    head = b"POST /alerts HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"

    assert asyncio.run(_talk(tmp_path, head)).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost:"])
def test_a_head_that_does_not_arrive_closes_the_connection(
    tmp_path: Path, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedConnection, "head_timeout_s", 0.05)

    assert asyncio.run(_talk(tmp_path, sent)) == b""


def test_a_head_that_does_not_end_closes_the_connection(tmp_path: Path) -> None:
    sent = b"GET /livez HTTP/1.1\r\nX: " + b"x" * (MAX_HEAD_BYTES + 1)

    assert asyncio.run(_talk(tmp_path, sent)) == b""


LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def test_a_request_after_the_answer_to_the_one_before_is_answered(tmp_path: Path) -> None:
    assert asyncio.run(_talk(tmp_path, LIVEZ, LIVEZ, LAST)).startswith(b"HTTP/1.1 200 ")


def test_a_request_before_the_answer_to_the_one_before_ends_the_connection(tmp_path: Path) -> None:
    assert asyncio.run(_talk(tmp_path, LIVEZ * 3 + LAST)) == b""
