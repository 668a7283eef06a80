"""Methods, paths and bodies of the routes, on a running service."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server import PATIENCE_S, Server, running

GETS = ("/", "/livez", "/readyz", "/metrics", "/models", "/drift", "/docs", "/openapi.json")


def form(*parts: tuple[bytes, bytes]) -> dict[str, Any]:
    body = b"".join(
        b"--x\r\nContent-Disposition: form-data; name=" + name + b"\r\n\r\n" + content + b"\r\n"
        for name, content in parts
    )
    return {
        "content": body + b"--x--\r\n",
        "headers": {"Content-Type": "multipart/form-data; boundary=x"},
    }


@pytest.mark.parametrize("path", [*GETS, "/models/efficientnet-lite0", "/models/none", "/nowhere"])
def test_head_is_get_without_a_body(client: httpx.Client, path: str) -> None:
    get, head = client.get(path), client.head(path)

    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers.keys() == get.headers.keys()


@pytest.mark.parametrize("path", [*GETS, "/models/efficientnet-lite0", "/models/none"])
def test_options_lists_the_methods_of_a_get_route(client: httpx.Client, path: str) -> None:
    answer = client.options(path)

    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("path", ["/classify", "/classify/batch", "/feedback"])
def test_options_lists_the_methods_of_a_post_route(client: httpx.Client, path: str) -> None:
    answer, refused = client.options(path), client.put(path)

    assert (answer.status_code, answer.headers["allow"]) == (204, "OPTIONS, POST")
    assert (refused.status_code, refused.headers["allow"]) == (405, "OPTIONS, POST")


@pytest.mark.parametrize("path", ["/classify/", "/livez/", "/docs/"])
def test_a_path_with_a_trailing_slash_is_not_found(client: httpx.Client, path: str) -> None:
    answer = client.post(path, headers={"Host": "elsewhere.example"})

    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert "location" not in answer.headers


def test_a_problem_shows_only_the_start_of_a_path(client: httpx.Client) -> None:
    answer = client.get("/" + "%0A%22<'" * 2000)

    assert answer.status_code == 404
    assert len(answer.json()["detail"]) < 400


def test_only_the_empty_part_of_a_batch_fails(client: httpx.Client, chelsea: bytes) -> None:
    parts = form((b'"files"', chelsea), (b'"files"; filename="fa\xe7ade"', b""), (b'"files"', b"x"))

    answer = client.post("/classify/batch", **parts)

    assert [item["status"] for item in answer.json()["results"]] == [200, 400, 415]


def test_the_schema_has_the_limits_on_files_and_classes(
    client: httpx.Client, chelsea: bytes
) -> None:
    post = client.get("/openapi.json").json()["paths"]["/classify/batch"]["post"]
    schema = post["requestBody"]["content"]["multipart/form-data"]["schema"]
    most = schema["properties"]["files"]["maxItems"]
    top_k = post["parameters"][0]["schema"]["maximum"]

    assert client.post("/classify/batch", **form(*[(b'"files"', b"x")] * most)).status_code == 200
    too_many = client.post("/classify/batch", **form(*[(b'"files"', b"x")] * (most + 1)))
    assert too_many.status_code == 400
    for wanted, status in ((top_k, 200), (top_k + 1, 400)):
        answer = client.post(f"/classify?top_k={wanted}", content=chelsea)
        assert answer.status_code == status


def test_large_feedback_is_rejected(small_bundle: Path, tmp_path: Path) -> None:
    with (
        running(small_bundle, review_dir=tmp_path) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client,
    ):
        json = {"Content-Type": "application/json"}
        answer = client.post("/feedback", content=b" " * 5000, headers=json)

        assert (answer.status_code, answer.json()["code"]) == (413, "upload-too-large")


def stalled(server: Server, length: int) -> socket.socket:
    """Send an upload without its last byte."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
    head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        connection.sendall(head.encode() + bytes(length - 1))
    return connection


def statuses(client: httpx.Client, image: bytes) -> Iterator[int]:
    """Send uploads from the same address until one is answered or the time is over."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        answer = client.post("/classify", content=image)
        assert answer.status_code == 200 or answer.headers["retry-after"] == "1"
        yield answer.status_code


def test_uploads_without_their_last_byte_do_not_block_other_clients(
    small_bundle: Path, chelsea: bytes
) -> None:
    size = 1 << 20
    limits = {"max_upload_bytes": size, "max_inflight_bytes": 8 * size, "upload_timeout_s": 3600}
    with (
        running(small_bundle, **limits) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client,
        contextlib.ExitStack() as connections,
    ):
        opened = [connections.enter_context(stalled(server, size)) for _ in range(9)]
        answered = 200 in statuses(client, chelsea)
        answers = [connection.recv(4096).split()[1] for connection in opened]

    assert answered
    assert set(answers) == {b"408", b"503"}  # at the latest after STALL_S
