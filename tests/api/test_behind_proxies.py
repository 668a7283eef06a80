"""Smuggled requests, injected headers and forged addresses, through a real nginx and HAProxy.

`sh docker/fetch_proxies.sh` fetches them; without them the tests are skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.processes import stop
from tests.server import PATIENCE_S, PHOTOS, ROOT, Server, running
from tests.unit.bundle.tiny_bundle import put, sound_files

pytestmark = [pytest.mark.slow, pytest.mark.process]
TOOLS = ROOT / ".tools" / "proxies"
QUIET_S = 0.5  # after which a proxy that has not answered an attack may wait for more
CLOSE = b"Connection: close"
# The proxies write User-Agent into every request that they see.
HIDDEN = b"GET /models HTTP/1.1\r\nHost: a\r\nX-API-Key: key\r\nUser-Agent: smuggled\r\n\r\n"

NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream tidegate {{ server 127.0.0.1:{upstream}; keepalive 8; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://tidegate; proxy_http_version 1.1; proxy_request_buffering off;
      proxy_set_header Connection "";
      proxy_set_header User-Agent seen;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
"""
HAPROXY = """
global
  maxconn 64
defaults
  mode http
  timeout connect 10s
  timeout client 60s
  timeout server 60s
  http-reuse always
  option forwardfor
frontend clients
  http-request set-header User-Agent seen
  bind 127.0.0.1:{port}
  default_backend tidegate
backend tidegate
  server one 127.0.0.1:{upstream}
"""


def program(name: str) -> str:
    """Return the path of a program; skip the test if it is missing."""
    fetched = TOOLS / "usr" / "sbin" / name
    found = shutil.which(name) or (str(fetched) if fetched.exists() else None)
    if found is None:
        pytest.skip(f"{name} is not there: sh docker/fetch_proxies.sh")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def proxy(name: str, upstream: int, folder: Path) -> Iterator[int]:
    """Run a proxy in front of a port; yield its own."""
    port = free_port()
    text = {"nginx": NGINX, "haproxy": HAPROXY}[name]
    config = folder / f"{name}.conf"
    config.write_text(text.format(folder=folder, port=port, upstream=upstream))
    command = {"nginx": ["-p", str(folder), "-c", str(config)], "haproxy": ["-f", str(config)]}
    libraries = next(TOOLS.glob("usr/lib/*/liblua5.3.so.0"), TOOLS).parent
    process = subprocess.Popen(
        [program(name), *command[name]], env={**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    )
    try:
        until(lambda: process.poll() is not None or can_connect(port))
        assert process.poll() is None
        yield port
    finally:
        stop(process, PATIENCE_S)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("server")
    digest = hashlib.sha256(b"key").hexdigest()
    (folder / "keys").write_text(f"client {digest} classify,metrics\n")
    with running(
        put(folder / "bundle", sound_files()),
        ood_action="flag",
        keys=folder / "keys",
        trusted_proxies="127.0.0.1",
        audit_log=folder / "audit.jsonl",
        log_level="debug",
    ) as started:
        yield started, folder


@pytest.fixture(scope="module", params=["nginx", "haproxy"])
def port(
    request: pytest.FixtureRequest,
    server: tuple[Server, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[int]:
    upstream = urlsplit(server[0].url).port
    assert upstream is not None
    with proxy(request.param, upstream, tmp_path_factory.mktemp(request.param)) as own:
        yield own


def attack(port: int, request: bytes) -> bytes:
    """Send bytes on a new connection, and return what comes back until it is quiet."""
    return send(port, request, quiet_s=QUIET_S)


def send(
    port: int, request: bytes, source: str = "127.0.0.1", quiet_s: float = PATIENCE_S
) -> bytes:
    """Send a request on a new connection, and return what comes back until its end."""
    with socket.create_connection(("127.0.0.1", port), 30, (source, 0)) as connection:
        connection.sendall(request)
        connection.settimeout(quiet_s)
        answer = b""
        try:
            while more := connection.recv(1 << 16):
                answer += more
        except (TimeoutError, ConnectionResetError):
            pass
    return answer


def post(*fields: bytes, body: bytes = b"", line: bytes = b"POST /feedback HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: a", *fields, b"", b""]) + body


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"


CHUNKED = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: %d"
END = chunked(b"")
ATTACKS = {
    "a length and chunks": post(LENGTH % len(END + HIDDEN), CHUNKED, body=END + HIDDEN),
    "chunks and a length": post(CHUNKED, b"Content-Length: 3", body=chunked(HIDDEN)),
    "two lengths": post(LENGTH % 0, LENGTH % len(HIDDEN), body=HIDDEN),
    "two equal lengths in one field": post(b"Content-Length: 0, 0", body=HIDDEN),
    "a signed length": post(b"Content-Length: +0", body=HIDDEN),
    "a length with a space in it": post(b"Content-Length: 0 %d" % len(HIDDEN), body=HIDDEN),
    "a length with a space before the colon": post(b"Content-Length : 0", body=HIDDEN),
    "no length": post(body=HIDDEN),
    "a vertical tab": post(
        LENGTH % len(END + HIDDEN), b"Transfer-Encoding:\x0bchunked", body=END + HIDDEN
    ),
    "xchunked": post(LENGTH % len(END + HIDDEN), b"Transfer-Encoding: xchunked", body=END + HIDDEN),
    "a space before the colon": post(
        LENGTH % len(END + HIDDEN), b"Transfer-Encoding : chunked", body=END + HIDDEN
    ),
    "a leading space": post(
        LENGTH % len(END + HIDDEN), b" Transfer-Encoding: chunked", body=END + HIDDEN
    ),
    "identity, chunked": post(
        LENGTH % len(END + HIDDEN), b"Transfer-Encoding: identity, chunked", body=END + HIDDEN
    ),
    "two encodings": post(
        LENGTH % len(END + HIDDEN), CHUNKED, b"Transfer-Encoding: cow", body=END + HIDDEN
    ),
    "a line feed alone": post(
        b"X: y\nTransfer-Encoding: chunked", LENGTH % len(END + HIDDEN), body=END + HIDDEN
    ),
    "a carriage return alone": post(
        b"X: y\rTransfer-Encoding: chunked", LENGTH % len(END + HIDDEN), body=END + HIDDEN
    ),
    "a zero byte": post(b"X: y\x00" + CHUNKED, LENGTH % len(END + HIDDEN), body=END + HIDDEN),
    "a chunk of a huge size": post(CHUNKED, body=b"fffffffffffffffe\r\n" + HIDDEN),
    "a chunk of a negative size": post(CHUNKED, body=b"-1\r\n" + HIDDEN),
    "a chunk size with 0x": post(CHUNKED, body=b"0x0\r\n\r\n" + HIDDEN),
    "a chunk extension with a line feed": post(CHUNKED, body=b"0;a\nb\r\n\r\n" + HIDDEN),
    "a chunk that is longer than it says": post(CHUNKED, body=b"1\r\nab\r\n" + END + HIDDEN),
    "line feeds in chunks": post(CHUNKED, body=b"0\n\n" + HIDDEN),
    "a trailer": post(CHUNKED, body=b"0\r\nContent-Length: 9\r\n\r\n" + HIDDEN),
    "version 1.0 with chunks": post(CHUNKED, body=END + HIDDEN, line=b"POST /feedback HTTP/1.0"),
    "an upgrade": post(b"Connection: Upgrade", b"Upgrade: websocket", body=HIDDEN),
    "h2c": post(
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABk",
        body=HIDDEN,
    ),
    "expect": post(b"Expect: 100-continue", LENGTH % len(HIDDEN), body=HIDDEN),
    "a GET with a body": post(LENGTH % len(HIDDEN), body=HIDDEN, line=b"GET /livez HTTP/1.1"),
    "a HEAD with a body": post(LENGTH % len(HIDDEN), body=HIDDEN, line=b"HEAD /livez HTTP/1.1"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_request_is_smuggled_past_a_proxy(
    port: int, server: tuple[Server, Path], name: str
) -> None:
    """Every request that the service handles is one that the proxy saw, and has its own answer."""
    answer = attack(port, ATTACKS[name])
    victims = [f"{port}-{list(ATTACKS).index(name)}-{index}" for index in range(4)]

    for victim in victims:
        got = send(port, post(b"X-Request-Id: " + victim.encode(), CLOSE))
        assert got.count(b"HTTP/1.1 ") == 1, (answer, got)
        assert got.startswith(b"HTTP/1.1 401 "), (answer, got)
        assert b"x-request-id: " + victim.encode() in got, (answer, got)
    server[0].wait_for("request", request_id=victims[-1])  # the lines before it are there
    assert not smuggled(server[0])


def smuggled(server: Server) -> list[str]:
    """Return the ids of the requests that no proxy has seen."""
    lines = [line for line in server.lines if line.get("user_agent") == "smuggled"]
    return [str(line["request_id"]) for line in lines]


def test_a_request_that_no_proxy_has_seen_would_be_noticed(server: tuple[Server, Path]) -> None:
    direct = urlsplit(server[0].url).port or 0
    assert b"HTTP/1.1 200 " in send(direct, HIDDEN[:-2] + CLOSE + b"\r\n\r\n")
    server[0].wait_for("request", user_agent="smuggled")

    assert len(smuggled(server[0])) == 1
    server[0].lines[:] = [line for line in server[0].lines if line.get("user_agent") != "smuggled"]


@pytest.mark.parametrize(
    "target",
    [
        b"/livez%0d%0aX-API-Key:%20key%0d%0a",
        b"/livez%0a%0aHTTP/1.1%20200%20OK",
        b"/models%00/../livez",
        b"//models",
        b"/livez/../models",
        b"/livez/..;/models",
        b"/livez%2f..%2fmodels",
        b"/%2e%2e/models",
        b"/livez?/../models",
        b"/livez#/models",
        b"/LIVEZ/../Models",
        b"http://a/models",
        b"http://livez@a/models",
        b"/models;x=/livez",
        b"/v2/health/../../models",
        b"/v2/health/..%2f..%2fmodels",
        b"/docs/../metrics",
        b"/static/..%2fmetrics",
    ],
)
def test_no_path_opens_a_closed_route_or_adds_a_header(port: int, target: bytes) -> None:
    answer = send(port, b"GET " + target + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    status = int(answer.split(b" ", 2)[1])
    assert status in (400, 401, 404) or b'"alive"' in answer, answer
    assert answer.lower().count(b"http/1.1 ") == 1


@pytest.mark.parametrize(
    "field",
    [
        b"X-Request-Id: a\r\n\tX-API-Key: key",
        b"X-Request-Id: a\x0bX-API-Key: key",
        b"X_API_Key: key",
        b"X-API-Key\t: key",
        b"X-API-Key: ke\x00y",
        b"X-API-Key: k\r\n ey",
        b"Authorization: Bearer k\r\n\tey",
        b"Forwarded: for=1.1.1.1;key\r\n X-API-Key: key",
    ],
)
def test_no_odd_field_is_taken_for_a_key(port: int, field: bytes) -> None:
    request = b"GET /models HTTP/1.1\r\nHost: a\r\n" + field + b"\r\nConnection: close\r\n\r\n"

    answer = send(port, request)

    assert b"HTTP/1.1 200" not in answer
    assert b"HTTP/1.0 200" not in answer


def test_a_key_reaches_the_service(port: int) -> None:
    request = post(b"X-API-Key: key", CLOSE, line=b"GET /models HTTP/1.1")

    assert b"HTTP/1.1 200" in send(port, request)


def client_of(port: int, server: tuple[Server, Path], name: str, *fields: bytes) -> str:
    """Send a photograph from 127.0.0.9 with these fields; return the client in the audit log."""
    photo = (PHOTOS / "chelsea.png").read_bytes()
    own = (b"X-API-Key: key", b"X-Request-Id: " + name.encode(), LENGTH % len(photo), CLOSE)
    line = b"POST /classify HTTP/1.1"
    send(port, post(*own, *fields, body=photo, line=line), "127.0.0.9")

    def found() -> list[str]:
        lines = [json.loads(one) for one in (server[1] / "audit.jsonl").read_text().splitlines()]
        return [one["client"] for one in lines if one.get("request_id") == name]

    until(lambda: bool(found()))
    return found()[0]


@pytest.mark.parametrize(
    "forged",
    [
        (b"X-Forwarded-For: 6.6.6.6",),
        (b"X-Forwarded-For: 127.0.0.1, 6.6.6.6, 127.0.0.1",),
        (b"X-Forwarded-For: nonsense",),
        (b"x-forwarded-for: 6.6.6.6", b"X-Forwarded-For: 127.0.0.1"),
        (b"X-Real-IP: 6.6.6.6",),
        (b"X_Forwarded_For: 6.6.6.6",),
    ],
    ids=range(6),
)
def test_a_client_cannot_forge_its_address(
    port: int,
    server: tuple[Server, Path],
    forged: tuple[bytes, ...],
    request: pytest.FixtureRequest,
) -> None:
    assert client_of(port, server, f"forged-{request.node.callspec.id}", *forged) == "127.0.0.9"


def test_two_headers_that_disagree_are_not_believed(port: int, server: tuple[Server, Path]) -> None:
    """The proxy writes X-Forwarded-For, and its client has sent the standard header."""
    forged = b"Forwarded: for=6.6.6.6"

    assert client_of(port, server, f"both-{port}", forged) == "127.0.0.1"
