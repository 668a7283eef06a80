"""What surrounds a service: a unix socket, a path prefix, idle connections, a platform's variables.

One server has it all.
"""

from __future__ import annotations

import base64
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.processes import output
from tests.server import PATIENCE_S, PHOTOS, ROOT, SERVE, Server, running

KEEP_ALIVE_S = 0.3


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "tidegate.sock"


AIP = {"AIP_PREDICT_ROUTE": "/v1/endpoints/7:predict", "AIP_HEALTH_ROUTE": "/v1/endpoints/7"}


@pytest.fixture(scope="module")
def proxied(demo_bundle: Path, path: Path) -> Iterator[Server]:
    settings = {
        "platform": "sagemaker",
        "host": "127.0.0.1",
        "dialects": "sagemaker,vertex",
        "unix_socket": path,
        "unix_socket_mode": "600",
        "root_path": "/vision",
        "keep_alive_s": KEEP_ALIVE_S,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**AIP, "SAGEMAKER_BATCH": "true"}.items():
            patch.setenv(name, value)
        with running(demo_bundle, **settings) as started:
            yield started
    assert not path.exists()


@pytest.fixture(scope="module")
def over_socket(proxied: Server, path: Path) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(path))
    with httpx.Client(
        transport=transport, base_url="http://localhost", timeout=PATIENCE_S
    ) as client:
        yield client


def test_the_unix_socket_answers_images(over_socket: httpx.Client, chelsea: bytes) -> None:
    assert over_socket.post("/classify", content=chelsea).status_code == 200


def test_the_unix_socket_has_its_mode_and_is_logged(proxied: Server, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"listening on unix:{path}" in proxied.messages()


def test_health_reaches_the_unix_socket(over_socket: httpx.Client, path: Path) -> None:
    variables = {
        "PATH": "/usr/bin:/bin",
        "TIDEGATE_HOST": "none",
        "TIDEGATE_UNIX_SOCKET": str(path),
    }

    assert "ready" in output([*SERVE[:-1], "health"], ROOT, variables, PATIENCE_S)


@pytest.mark.parametrize("prefix", ["", "/vision"])
def test_paths_are_found_with_and_without_the_prefix(
    over_socket: httpx.Client, chelsea: bytes, prefix: str
) -> None:
    assert over_socket.post(f"{prefix}/classify", content=chelsea).status_code == 200
    assert over_socket.get(f"{prefix}/models").status_code == 200
    assert over_socket.get(f"{prefix}/docs").status_code == 200


def test_metrics_count_the_route_without_the_prefix(
    over_socket: httpx.Client, chelsea: bytes
) -> None:
    over_socket.post("/vision/classify", content=chelsea)

    assert 'route="/classify",status="200"' in over_socket.get("/metrics").text


def test_the_document_names_the_prefix_as_its_server(over_socket: httpx.Client) -> None:
    assert over_socket.get("/openapi.json").json()["servers"] == [{"url": "/vision"}]


def test_an_idle_connection_is_closed_after_its_time(proxied: Server) -> None:
    host, port = proxied.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        answered = time.monotonic()

        assert connection.recv(4096) == b""

    assert time.monotonic() - answered >= KEEP_ALIVE_S / 2


def test_links_follow_the_prefix_of_the_proxy(client: httpx.Client) -> None:
    prefix = {"X-Forwarded-Prefix": "/elsewhere"}
    answer = client.get("/openapi.json", headers=prefix)

    assert answer.json()["servers"] == [{"url": "/elsewhere"}]
    assert answer.headers["vary"] == "X-Forwarded-Prefix"
    assert "servers" not in client.get("/openapi.json").json()


def test_the_reference_page_needs_no_other_host_and_no_script(client: httpx.Client) -> None:
    page = client.get("/docs")

    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in page.text
    assert "//" not in page.text.replace("://127.0.0.1", "")
    assert client.get("/redoc").status_code == 404


@pytest.mark.parametrize(
    ("photo", "decision"), [("grass.png", "reject"), ("coffee.png", "accept"), (None, "error")]
)
def test_a_batch_transform_never_fails_for_an_image(
    over_socket: httpx.Client, photo: str | None, decision: str
) -> None:
    image = (PHOTOS / photo).read_bytes() if photo else b"no image"

    answer = over_socket.post("/invocations", content=image)

    assert answer.status_code == 200
    assert bool(answer.json()["predictions"]) == (decision == "accept")
    assert answer.headers["X-Amzn-SageMaker-Custom-Attributes"].endswith(f"decision={decision}")


def test_vertex_s_routes_are_those_of_its_variables(
    over_socket: httpx.Client, chelsea: bytes
) -> None:
    instances = {"instances": [{"b64": base64.b64encode(chelsea).decode()}]}

    answer = over_socket.post(AIP["AIP_PREDICT_ROUTE"], json=instances)

    assert answer.json()["predictions"][0]["decision"] == "accept"
    assert over_socket.get(AIP["AIP_HEALTH_ROUTE"]).status_code == 200
    assert over_socket.post("/predict", json=instances).status_code == 404
