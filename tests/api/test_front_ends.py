"""Front ends around one engine process: what crashes, hangs or ends disturbs nothing else."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.certificates import Authority
from tests.server import PATIENCE_S, SERVE, Server, launched
from tests.unit.stage import folder_of_models
from tidegate.service.api.keys import hash_of

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_models(tmp_path_factory.mktemp("models")) / "tiny/1"


@pytest.fixture(scope="module")
def image(bundle: Path) -> bytes:
    return (bundle / "golden/grey.png").read_bytes()


@contextmanager
def fronted(bundle: Path, front_ends: int, **settings: object) -> Iterator[Server]:
    with launched(bundle, SERVE, front_ends=front_ends, **settings) as server:
        server.wait_for("ready")
        for index in range(front_ends):
            server.wait_for(f"front end {index} is up")
        yield server


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    """One server for all tests that leave it able to answer."""
    with fronted(bundle, 2) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as opened:
        yield opened


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def pids(server: Server) -> dict[int, int]:
    """The process of each front end, as it was started last."""
    found = [re.match(r"front end (\d+) is up \(pid (\d+)\)", m) for m in server.messages()]
    return {int(match[1]): int(match[2]) for match in found if match}


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def front_ends_of(pid: int) -> list[int]:
    """The front ends of a service that run, whether they are up or not."""
    found = []
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        with contextlib.suppress(OSError):  # it has just ended
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"tidegate.service.front" in command and runs(child):
                found.append(child)
    return found


def watches_its_parent(pid: int) -> bool:
    """Whether a front end has its thread for that, which it starts before its imports."""
    return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1


def sockets_of(pid: int, port: int) -> int:
    """Count the connections of clients that a process has."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(link))
        except OSError:
            continue
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    ours = [line.split() for line in lines]
    return sum(
        f"socket:[{fields[9]}]" in inodes
        for fields in ours
        if fields[3] == "01" and int(fields[1].partition(":")[2], 16) == port
    )


@contextmanager
def connected(server: Server, count: int) -> Iterator[list[socket.socket]]:
    host, _, port = server.url.removeprefix("http://").partition(":")
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_S))
            for _ in range(count)
        ]


def metric(client: httpx.Client, start: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


class Load(threading.Thread):
    """Sends one image after another on a connection, and connects again when it is lost."""

    def __init__(self, server: Server, image: bytes) -> None:
        super().__init__(daemon=True)
        host, _, port = server.url.removeprefix("http://").partition(":")
        self._address = host, int(port)
        self._image = image
        self.statuses: list[int] = []
        self.lost = self.resets = 0
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.is_set():
            connection = http.client.HTTPConnection(*self._address, timeout=PATIENCE_S)
            with closing(connection):
                try:
                    while not self.stopping.is_set():
                        connection.request("POST", "/classify", self._image)
                        response = connection.getresponse()
                        response.read()
                        self.statuses.append(response.status)
                        if response.will_close:
                            break
                except ConnectionRefusedError:
                    self.lost += 1
                    self.stopping.wait(0.01)
                except (OSError, http.client.HTTPException):
                    self.lost += 1
                    self.resets += 1


@contextmanager
def load(server: Server, image: bytes, threads: int = 6) -> Iterator[list[Load]]:
    clients = [Load(server, image) for _ in range(threads)]
    for one in clients:
        one.start()
    until(lambda: all(len(one.statuses) >= 3 for one in clients))
    try:
        yield clients
    finally:
        for one in clients:
            one.stopping.set()
        for one in clients:
            one.join(PATIENCE_S)


def test_every_route_answers(client: httpx.Client, image: bytes) -> None:
    answer = client.post("/classify", content=image, headers={"X-Request-Id": "seen"})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "seen"
    told = client.post("/feedback", json={"request_id": "seen", "class_id": 0})

    assert told.status_code == 200
    for path, status in {
        "/livez": 200,
        "/readyz": 200,
        "/models": 200,
        "/models/tiny": 200,
        "/models/tiny/rollout": 200,
        "/models/tiny/calibration": 200,
        "/drift": 200,
        "/v2/models/tiny": 200,
        "/v2/models/tiny/stats": 200,
        "/": 200,
        "/openapi.json": 200,
        "/nowhere": 404,
        "/admin/reload": 403,
    }.items():
        assert client.get(path).status_code == status, path
    assert client.post("/preprocess", content=image).headers["content-type"] == "image/png"
    explained = client.post("/explain?grid=2&class_id=0", content=image)
    assert explained.json()["runs"] == 5
    assert client.post("/classify", content=b"text").status_code == 415
    assert client.post("/feedback", json={"request_id": "x" * 5000}).status_code == 413


def test_what_front_ends_count_is_one_sum(client: httpx.Client, image: bytes) -> None:
    answered = 'tidegate_requests_total{route="/classify",status="200"}'
    before, decided = metric(client, answered), metric(client, "tidegate_ood_decisions_total")
    images = client.get("/drift").json()["images"]

    for _ in range(10):
        with httpx.Client(base_url=str(client.base_url), timeout=PATIENCE_S) as another:
            for _ in range(3):
                assert another.post("/classify", content=image).status_code == 200

    assert metric(client, answered) == before + 30
    assert metric(client, "tidegate_ood_decisions_total") == decided + 30
    assert client.get("/drift").json()["images"] == images + 30
    assert metric(client, "tidegate_front_ends ") == 2
    stats = client.get("/v2/models/tiny/stats").json()["model_stats"][0]
    assert stats["inference_count"] >= 30


def test_connections_are_dealt_evenly(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    started = pids(server).values()
    until(lambda: all(sockets_of(pid, port) == 0 for pid in started))

    with connected(server, 8):
        until(lambda: [sockets_of(pid, port) for pid in started] == [4, 4])


def test_a_front_end_that_is_killed_under_load_disturbs_no_other(
    server: Server, client: httpx.Client, image: bytes
) -> None:
    answered = 'tidegate_requests_total{route="/classify",status="200"}'
    victim = pids(server)[0]
    with load(server, image) as clients:
        before = metric(client, answered)
        os.kill(victim, signal.SIGKILL)
        until(lambda: pids(server)[0] != victim)
        with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as first:  # the new one's
            assert first.post("/classify", content=image).status_code == 200
        until(lambda: all(len(one.statuses) >= 20 for one in clients))

    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as another:
        assert metric(another, answered) >= before
        assert metric(another, "tidegate_front_ends_replaced_total") >= 1
        assert metric(another, "tidegate_inflight_requests") == 1  # this scrape
    assert {status for one in clients for status in one.statuses} == {200}
    assert sum(one.lost for one in clients) <= len(clients) / 2  # one for each of its connections


def test_a_front_end_that_hangs_is_replaced(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    victim = pids(server)[1]
    with connected(server, 2) as opened:
        until(lambda: sockets_of(victim, port) == 1)
        os.kill(victim, signal.SIGSTOP)
        until(lambda: not runs(victim))
        until(lambda: pids(server)[1] != victim)
        for connection in opened:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers = sorted(_received(connection)[:15] for connection in opened)

    assert answers == [b"", b"HTTP/1.1 200 OK"]


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(100)
    except ConnectionError:
        return b""


def test_a_drain_under_load_resets_no_connection(server: Server, image: bytes) -> None:
    """The last test of this server."""
    started = pids(server).values()
    with load(server, image) as clients:
        before = sum(one.lost for one in clients)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not any(map(runs, started)))
        for one in clients:
            one.stopping.set()
        assert server.process.wait(PATIENCE_S) == 0

    assert before == 0
    assert {status for one in clients for status in one.statuses} == {200}
    assert [one.resets for one in clients] == [0] * len(clients)


def test_a_front_end_starts_while_the_files_of_keys_and_certificates_are_unusable(
    bundle: Path, tmp_path: Path
) -> None:
    issued = Authority(tmp_path).issue("service")
    keys = tmp_path / "keys"
    keys.write_text(f"camera {hash_of('secret')} classify\n")
    files = {"keys": keys, "tls_certificate": issued.certificate, "tls_key": issued.key}
    with fronted(bundle, 1, **files) as server:
        victim = pids(server)[0]
        keys.write_text("half a line")
        issued.key.unlink()
        os.kill(victim, signal.SIGKILL)
        until(lambda: pids(server)[0] != victim)
        trusted = ssl.create_default_context(cafile=tmp_path / "authority.pem")
        with httpx.Client(base_url=server.url, verify=trusted, timeout=PATIENCE_S) as client:
            statuses = [
                client.get("/models", headers={"authorization": f"Bearer {key}"}).status_code
                for key in ("secret", "other")
            ]

    assert statuses == [200, 401]


@pytest.mark.slow
def test_nothing_is_left_of_a_service_that_is_killed(bundle: Path, image: bytes) -> None:
    with fronted(bundle, 2) as server:
        until(lambda: len(front_ends_of(server.process.pid)) == 3)  # one is started ahead
        started = front_ends_of(server.process.pid)
        until(lambda: all(map(watches_its_parent, started)))
        with load(server, image) as clients:
            server.process.kill()
            killed_at = time.monotonic()
            until(lambda: not any(map(runs, started)))
            took_s = time.monotonic() - killed_at
            for one in clients:
                one.stopping.set()

    assert took_s < 1


@pytest.mark.slow
def test_five_crashes_in_a_minute_end_the_service(bundle: Path) -> None:
    with fronted(bundle, 2) as server:
        while server.process.poll() is None:
            for one in front_ends_of(server.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            time.sleep(0.01)

        assert server.process.wait(PATIENCE_S) == 70
    assert sum("has ended" in message for message in server.messages()) >= 5


@pytest.mark.slow
def test_a_front_end_that_hangs_while_it_starts_is_replaced(bundle: Path) -> None:
    """After a minute."""
    with fronted(bundle, 2) as server:
        victim = pids(server)[0]
        until(lambda: len(front_ends_of(server.process.pid)) == 3)  # one is started ahead
        (ahead,) = set(front_ends_of(server.process.pid)) - set(pids(server).values())
        os.kill(ahead, signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        server.wait_for("front end 0 has not started within 60 s and is ended")
        until(lambda: pids(server)[0] != victim)

        assert server.process.poll() is None
    assert sum("has ended" in message for message in server.messages()) == 2


@pytest.mark.slow
def test_64_connections_over_four_front_ends(bundle: Path, image: bytes) -> None:
    with fronted(bundle, 4) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        started = pids(server).values()
        with ExitStack() as stack:
            for _ in range(64):
                connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
                stack.enter_context(closing(connection))
                connection.request("POST", "/classify", image)
                response = connection.getresponse()
                response.read()
                assert response.status == 200

            assert [sockets_of(pid, int(port)) for pid in started] == [16] * 4
