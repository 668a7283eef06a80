"""A real server with keys, a trusted proxy, an admin port, CORS and an audit log."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import httpx
import pytest

from tests.processes import output
from tests.server import PATIENCE_S, PHOTOS, ROOT, Server, running
from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service.api.access import scopes_of
from tidegate.service.api.dialects.names import NAMES
from tidegate.service.api.keys import SCOPES

PHOTO = (PHOTOS / "chelsea.png").read_bytes()
ORIGIN = "https://app.example.com"
TOKEN = "the-administrator"  # noqa: S105 - of this test
ANY = ",".join(SCOPES)
CLIENT = httpx.Client(timeout=PATIENCE_S, verify=False)  # noqa: S501 - plain HTTP; loads no CAs


def line(name: str, scopes: str, limits: str = "") -> str:
    """Return the line of a client whose key is its name."""
    return f"{name} {hashlib.sha256(name.encode()).hexdigest()} {scopes} {limits}\n"


KEYS = (
    "".join(line(scope, scope) for scope in SCOPES)
    + line("slow", "classify", "0.001 2")
    + line("narrow", "classify", "- - 2")
    + line("all", ANY)
)


@dataclass
class Guarded:
    """The server, the files that it follows and writes, and its second URL."""

    server: Server
    folder: Path

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def admin_url(self) -> str:
        started = self.server.wait_for("operators' routes are on")
        return str(started["message"]).removeprefix("operators' routes are on ")

    def replace_keys(self, text: str) -> None:
        (self.folder / "new").write_text(text)
        (self.folder / "new").replace(self.folder / "keys")

    def audit(self, **fields: object) -> dict[str, object]:
        """Wait for a line of the audit log with these fields."""
        end = time.monotonic() + PATIENCE_S
        text = ""
        while time.monotonic() < end:
            text = (self.folder / "audit.jsonl").read_text()
            for one in map(json.loads, text.split("\n")[:-1]):
                if fields.items() <= one.items():
                    return dict(one)
            time.sleep(0.02)
        raise AssertionError(f"no {fields} in {text}")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "keys").write_text(KEYS)
    (folder / "token").write_text(TOKEN)
    with running(
        put(folder / "bundle", sound_files()),
        keys=folder / "keys",
        admin_token_file=folder / "token",
        trusted_proxies="127.0.0.1",
        admin_port=0,
        grpc_port=0,
        cors_origins=ORIGIN,
        audit_log=folder / "audit.jsonl",
        ood_action="flag",
        dialects=",".join(NAMES),
    ) as server:
        yield Guarded(server, folder)


def send(
    url: str, path: str = "/classify", key: str | None = "all", method: str = "POST", **headers: str
) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        sent["x-api-key"] = key
    content = PHOTO if method == "POST" else None
    return CLIENT.request(method, url + path, content=content, headers=sent)


def code_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def test_a_key_opens_its_own_routes_only(guarded: Guarded) -> None:
    assert send(guarded.url, key="classify").status_code == 200
    bearer = send(guarded.url, key=None, authorization="Bearer classify")
    assert bearer.status_code == 200

    assert code_of(send(guarded.url, key="metrics")) == (403, "forbidden")
    for key in (None, "guess"):
        refused = send(guarded.url, key=key)
        assert code_of(refused) == (401, "unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"
    assert code_of(send(guarded.url, "/classify?api_key=all", key=None)) == (401, "unauthorized")


def closed_operations(guarded: Guarded) -> set[str]:
    """Return the documented operations that need a key, as "GET /path"."""
    paths = CLIENT.get(guarded.url + "/openapi.json").json()["paths"]
    operations = [(method.upper(), path) for path in paths for method in paths[path]]
    return {f"{method} {path}" for method, path in operations if scopes_of(method, path)}


def test_every_documented_route_refuses_a_missing_a_wrong_and_another_key(
    guarded: Guarded,
) -> None:
    closed = closed_operations(guarded)

    assert len(closed) >= 30
    for method, path in (operation.split(" ") for operation in closed):
        needed = scopes_of(method, path)
        is_admin = bool(needed & {"admin", "metrics"})
        url = guarded.admin_url if is_admin else guarded.url
        for key in (None, "guess"):
            assert send(url, path, key, method).status_code == 401, (method, path)
        for scope in set(SCOPES) - needed:
            assert send(url, path, scope, method).status_code == 403, (method, path, scope)


def test_probes_and_pages_need_no_key(guarded: Guarded) -> None:
    for path in ("/livez", "/readyz", "/", "/openapi.json"):
        assert send(guarded.url, path, None, "GET").status_code == 200
        assert send(guarded.url, path, "guess", "HEAD").status_code == 200


def converse(url: str, request: bytes) -> bytes:
    """Send bytes, and return what the server answers until it closes or has nothing to say."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), PATIENCE_S) as connection:
        connection.sendall(request)
        answer = connection.recv(1 << 16)
        connection.shutdown(socket.SHUT_WR)
        while more := connection.recv(1 << 16):
            answer += more
    return answer


@pytest.mark.parametrize(
    "path", ["/classify", "/classify/batch", "/feedback", "/v2/models/a/infer"]
)
def test_a_refusal_comes_before_any_byte_of_the_body(guarded: Guarded, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n".encode()

    answer = converse(guarded.url, head + b"expect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"100 Continue" not in answer
    assert converse(guarded.url, head + b"\r\n").startswith(b"HTTP/1.1 401 ")


def test_a_refused_body_does_not_become_a_request(guarded: Guarded) -> None:
    hidden = b"POST /classify HTTP/1.1\r\nhost: a\r\nx-api-key: all\r\ncontent-length: 0\r\n\r\n"
    head = b"POST /classify HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(hidden)

    answer = converse(guarded.url, head + hidden)

    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_client_has_a_quota_of_its_own(guarded: Guarded) -> None:
    statuses = [send(guarded.url, key="slow").status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    told = send(guarded.url, key="slow").headers
    assert told["ratelimit-policy"] == '"images";q=2;w=2000'
    assert told["ratelimit"].startswith('"images";r=0;t=')
    assert int(send(guarded.url, key="slow").headers["retry-after"]) > 100

    other = send(guarded.url, key="classify")
    assert other.status_code == 200
    assert "ratelimit" not in other.headers


def test_a_client_has_a_limit_on_images_in_progress(guarded: Guarded) -> None:
    files = [("files", ("a.png", PHOTO))]
    url, headers = guarded.url + "/classify/batch", {"x-api-key": "narrow"}

    two = CLIENT.post(url, files=files * 2, headers=headers)
    three = CLIENT.post(url, files=files * 3, headers=headers)

    assert two.status_code == 200
    assert code_of(three) == (400, "bad-request")
    assert "at most 2 images in progress" in three.json()["detail"]


def test_the_name_of_the_client_is_in_the_log_and_the_metrics(guarded: Guarded) -> None:
    request_id = send(guarded.url, key="classify").headers["x-request-id"]
    send(guarded.url, key="guess")

    logged = guarded.server.wait_for("request", request_id=request_id)
    assert (logged["key"], logged["client"]) == ("classify", "127.0.0.1")
    metrics = send(guarded.admin_url, "/metrics", "metrics", "GET").text
    assert 'tidegate_client_requests_total{client="classify",status="200"}' in metrics
    assert 'client="guess"' not in metrics
    assert 'tidegate_requests_total{route="/classify",status="401"}' in metrics


def test_operators_routes_are_on_the_admin_port_only(guarded: Guarded) -> None:
    for path in ("/metrics", "/drift", "/models"):
        assert code_of(send(guarded.url, path, "all", "GET")) == (404, "not-found")
        assert send(guarded.admin_url, path, "all", "GET").status_code == 200
    assert code_of(send(guarded.url, "/admin/reload")) == (404, "not-found")
    assert send(guarded.admin_url, "/admin/reload", "admin").status_code == 200
    assert send(guarded.admin_url, "/admin/reload", TOKEN).status_code == 200

    assert code_of(send(guarded.admin_url)) == (404, "not-found")
    assert send(guarded.admin_url, "/readyz", None, "GET").status_code == 200


def test_the_client_behind_a_trusted_proxy_is_the_one_that_it_names(guarded: Guarded) -> None:
    request_id = send(guarded.url, x_forwarded_for="6.6.6.6, 192.0.2.7").headers["x-request-id"]

    assert guarded.audit(request_id=request_id)["client"] == "192.0.2.7"


def test_a_decision_is_in_the_audit_log_without_the_image(guarded: Guarded) -> None:
    answer = send(guarded.url, key="classify").json()

    record = guarded.audit(request_id=answer["request_id"])
    top = answer["predictions"][0]
    assert record["event"] == "decision"
    assert (record["key"], record["client"]) == ("classify", "127.0.0.1")
    assert record["image_sha256"] == hashlib.sha256(PHOTO).hexdigest()
    assert record["digest"] == answer["model"]["digest"]
    assert (record["decision"], record["class_id"]) == (answer["decision"], top["class_id"])
    assert record["p_value"] == pytest.approx(answer["ood"]["p_value"], abs=1e-6)
    assert len(json.dumps(record)) < 800


def test_feedback_and_operators_are_in_the_audit_log(guarded: Guarded) -> None:
    answered = send(guarded.url).json()["request_id"]
    said = CLIENT.post(
        guarded.url + "/feedback",
        json={"request_id": answered, "class_id": 3},
        headers={"x-api-key": "feedback"},
    )
    assert said.status_code == 200, said.text
    send(guarded.admin_url, "/admin/reload", "admin")

    feedback = guarded.audit(event="feedback", request_id=answered)
    assert (feedback["key"], feedback["class_id"]) == ("feedback", 3)
    assert guarded.audit(event="admin", key="admin")["path"] == "/admin/reload"


def test_the_audit_log_may_be_rotated(guarded: Guarded) -> None:
    first = send(guarded.url).json()["request_id"]
    guarded.audit(request_id=first)
    (guarded.folder / "audit.jsonl").rename(guarded.folder / "audit.jsonl.1")
    (guarded.folder / "audit.jsonl").write_text("")

    second = send(guarded.url).json()["request_id"]

    guarded.audit(request_id=second)
    assert second not in (guarded.folder / "audit.jsonl.1").read_text()


def test_a_page_of_an_allowed_origin_may_use_the_service(guarded: Guarded) -> None:
    ask = {"access_control_request_method": "POST"}
    headers = {"access_control_request_headers": "authorization,content-type,x-request-timeout-ms"}

    preflight = send(guarded.url, "/classify", None, "OPTIONS", origin=ORIGIN, **ask, **headers)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    answer = send(guarded.url, origin=ORIGIN)
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "retry-after" in answer.headers["access-control-expose-headers"]
    assert "origin" in answer.headers["vary"].lower()
    assert "access-control-allow-credentials" not in answer.headers
    refused = send(guarded.url, key=None, origin=ORIGIN)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN

    other = send(guarded.url, "/classify", None, "OPTIONS", origin="https://evil.example", **ask)
    assert "access-control-allow-origin" not in other.headers
    assert "access-control-allow-origin" not in send(guarded.url, origin="null").headers


def test_no_response_is_sniffed_and_pages_have_a_policy(guarded: Guarded) -> None:
    pages = [send(guarded.url, path, None, "GET", accept="text/html") for path in ("/", "/docs")]

    for page in pages:
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["cross-origin-resource-policy"] == "same-origin"
    for response in (*pages, send(guarded.url), send(guarded.url, key=None)):
        assert response.headers["x-content-type-options"] == "nosniff"


# They succeed only while there is a canary.
ROLLOUTS = {f"POST /admin/models/{{name}}/{step}" for step in ("promote", "rollback")}


@pytest.mark.slow
@pytest.mark.timeout(20 * PATIENCE_S)
def test_schemathesis_finds_no_route_that_ignores_keys(guarded: Guarded, tmp_path: Path) -> None:
    """It repeats without a key, and with another one, what succeeded with one."""
    answered = tmp_path / "answered"
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": str(ROOT / "tests/api/schemathesis_hooks.py"),
        "TIDEGATE_TEST_ANSWERED": str(answered),
        "TIDEGATE_TEST_MODEL": "tiny",
    }
    for url in (guarded.url, guarded.admin_url):
        command: list[str | Path] = [
            Path(sys.executable).with_name("schemathesis"),
            f"--config-file={ROOT / 'tests/api/schemathesis.toml'}",
            *("run", f"{url}/openapi.json", "--no-color", "--continue-on-failure"),
            *("--header=Authorization: Bearer all", "--checks=ignored_auth"),
            *("--phases=examples,fuzzing", "--max-examples=4", "--seed=1"),
            *("--suppress-health-check=all", "--generation-database=none"),
        ]
        report = output(command, tmp_path, environment, 10 * PATIENCE_S)  # it fails on an issue
        assert " passed" in report, report

    succeeded = {line[4:] for line in answered.read_text("utf-8").splitlines() if line[0] == "2"}
    assert closed_operations(guarded) - succeeded == ROLLOUTS


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        ((), grpc.StatusCode.UNAUTHENTICATED),
        ((("x-api-key", "guess"),), grpc.StatusCode.UNAUTHENTICATED),
        ((("authorization", "Bearer metrics"),), grpc.StatusCode.PERMISSION_DENIED),
        ((("authorization", "Bearer classify"),), grpc.StatusCode.NOT_FOUND),  # of no model
    ],
)
def test_calls_over_grpc_need_the_same_keys(
    guarded: Guarded, metadata: tuple[tuple[str, str], ...], status: grpc.StatusCode
) -> None:
    line = guarded.server.wait_for("serving gRPC on")["message"]
    with grpc.insecure_channel(line.removeprefix("serving gRPC on ")) as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"", timeout=PATIENCE_S) == b"\x08\x01"
        metadata_of = channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata")
        with pytest.raises(grpc.RpcError) as refused:
            metadata_of(b"\x0a\x04none", metadata=metadata, timeout=PATIENCE_S)
    assert refused.value.code() is status


def test_keys_are_replaced_while_requests_are_answered(guarded: Guarded) -> None:
    metric = 'tidegate_configuration_refused{file="keys"}'

    def refused(key: str = "all") -> str:
        text = send(guarded.admin_url, "/metrics", key, "GET").text
        return next(one for one in text.splitlines() if one.startswith(metric))[-3:]

    try:
        guarded.replace_keys(KEYS + "a line\n")
        guarded.server.wait_for("keys not reloaded")
        assert send(guarded.url, key="classify").status_code == 200
        assert refused() == "1.0"

        guarded.replace_keys(line("new", ANY))
        guarded.server.wait_for("keys reloaded")
        deadline = time.monotonic() + PATIENCE_S
        while send(guarded.url, key="new").status_code != 200:  # front ends load it a moment later
            assert time.monotonic() < deadline
        while send(guarded.url, key="classify").status_code != 401:
            assert time.monotonic() < deadline
        assert code_of(send(guarded.url, key="classify")) == (401, "unauthorized")
        assert refused("new") == "0.0"
    finally:
        guarded.replace_keys(KEYS)
