from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.docker.programs import wait_for
from tests.server import PATIENCE_S, Server, launched, running


def exit_code(server: Server) -> int:
    return server.process.wait(PATIENCE_S)


# `tidegate serve`, in which one function waits until a FIFO is opened for writing.
HELD_WARM_UP = """
import sys
from tidegate.service import cli, lifecycle
prepare = lifecycle.prepare
def when_allowed(*given):
    open({gate!r}).close()
    return prepare(*given)
lifecycle.prepare = when_allowed
sys.exit(cli.main(["serve"]))
"""
HELD_ENGINE = """
import sys
from tidegate.service import cli, lifecycle
prepare = lifecycle.prepare
def with_held_engine(*given):
    prepared = prepare(*given)
    run = prepared.warm.engine.run
    def when_allowed(*batch):
        open({gate!r}).close()
        return run(*batch)
    prepared.warm.engine.run = when_allowed
    return prepared
lifecycle.prepare = with_held_engine
sys.exit(cli.main(["serve"]))
"""


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def held(program: str, gate: Path) -> tuple[str, ...]:
    return (sys.executable, "-c", program.format(gate=str(gate)))


def test_the_service_is_ready_only_after_warm_up_and_golden_probes(
    demo_bundle: Path, chelsea: bytes, gate: Path
) -> None:
    with (
        launched(demo_bundle, held(HELD_WARM_UP, gate)) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client,
    ):
        early = client.get("/readyz")
        alive = client.get("/livez")
        refused = client.post("/classify", content=chelsea)
        v2_early = client.get("/v2/health/ready")
        v2_refused = client.post("/v2/models/efficientnet-lite0/infer", content=chelsea)
        gate.write_bytes(b"")
        server.wait_for("ready")
        late = client.get("/readyz")

    assert (v2_early.status_code, v2_early.json()) == (503, {"live": True, "ready": False})
    assert v2_refused.json()["error"].startswith("not-ready: ")
    assert v2_refused.headers["content-type"] == "application/json"
    assert v2_refused.headers["retry-after"] == "1"
    assert (alive.status_code, late.status_code) == (200, 200)
    assert late.json() == {"status": "ready"}
    assert (early.status_code, early.json()["code"]) == (503, "not-ready")
    assert (refused.status_code, refused.json()["code"]) == (503, "not-ready")
    assert int(refused.headers["retry-after"]) >= 1
    messages = server.messages()
    warm = next(i for i, message in enumerate(messages) if "golden probes passed" in message)
    assert warm < messages.index("ready")


def test_after_sigterm_it_is_not_ready_but_serves(small_bundle: Path, chelsea: bytes) -> None:
    with (
        running(small_bundle, drain_delay_s=3600) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client,
    ):
        client.get("/readyz").raise_for_status()
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        ready = client.get("/readyz")
        answer = client.post("/classify", content=chelsea)

    assert (ready.status_code, ready.json()["code"]) == (503, "draining")
    assert answer.status_code == 200


def test_admitted_requests_are_answered_after_sigterm(
    small_bundle: Path, chelsea: bytes, gate: Path
) -> None:
    patient = {"deadline_ms": 600_000, "max_deadline_ms": 600_000, "engine_timeout_s": 3600}
    with (
        launched(small_bundle, held(HELD_ENGINE, gate), **patient) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client,
        ThreadPoolExecutor(40) as clients,
    ):
        server.wait_for("ready")
        answers = [clients.submit(client.post, "/classify", content=chelsea) for _ in range(40)]
        wait_for(
            lambda: "tidegate_inflight_requests 41.0" in client.get("/metrics").text,
            "40 requests are in flight",
        )
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        with gate.open("w"):
            statuses = [answer.result().status_code for answer in answers]

        assert statuses == [200] * 40
        assert exit_code(server) == 0


def test_a_second_sigterm_exits_at_once(small_bundle: Path) -> None:
    with running(small_bundle, drain_delay_s=3600) as server:
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        server.process.send_signal(signal.SIGTERM)

        assert exit_code(server) == 128 + signal.SIGTERM


def test_a_changed_bundle_is_rejected_with_the_name_of_the_file(
    demo_bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "bundle"
    for file in demo_bundle.rglob("*"):
        if file.is_file():
            target = copy / file.relative_to(demo_bundle)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    labels = bytearray((copy / "labels.txt").read_bytes())
    labels[100] ^= 1
    (copy / "labels.txt").write_bytes(labels)

    with launched(copy) as server:
        assert exit_code(server) == 1
        refusal = server.wait_for("cannot start")

    assert "labels.txt has changed" in refusal["message"]


def test_an_engine_that_does_not_load_stops_the_start(demo_bundle: Path) -> None:
    with launched(demo_bundle, engine="onnx-cuda") as server:
        assert exit_code(server) == 1
        server.wait_for("cannot start: There is no GPU to use")


def test_a_port_in_use_is_reported(demo_bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with launched(demo_bundle, port=port) as server:
            assert exit_code(server) == 1
            server.wait_for(f"tidegate: Cannot listen on 127.0.0.1:{port}")


def test_a_misspelt_setting_stops_the_start_and_suggests_the_right_one(demo_bundle: Path) -> None:
    with launched(demo_bundle, deadlin_ms=5) as server:
        assert exit_code(server) == 1
        refusal = server.wait_for("tidegate: TIDEGATE_DEADLIN_MS is not a setting. Did you mean")

    assert "TIDEGATE_DEADLINE_MS?" in refusal["message"]


def test_a_hung_engine_ends_the_process(small_bundle: Path, chelsea: bytes, gate: Path) -> None:
    with launched(small_bundle, held(HELD_ENGINE, gate), engine_timeout_s=0.2) as server:
        server.wait_for("ready")
        with (
            httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client,
            contextlib.suppress(httpx.TransportError),  # the process ends under the request
        ):
            client.post("/classify", content=chelsea)

        assert exit_code(server) == 70
        line = server.wait_for("service failed")

    assert "has not finished a batch in 0.2 s" in line["message"]


def test_a_hung_engine_during_the_drain_gives_exit_code_70(
    small_bundle: Path, chelsea: bytes, gate: Path
) -> None:
    hanging = {"engine_timeout_s": 0.2, "drain_delay_s": 3600}
    with launched(small_bundle, held(HELD_ENGINE, gate), **hanging) as server:
        server.wait_for("ready")
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        with contextlib.suppress(httpx.TransportError):
            httpx.post(f"{server.url}/classify", content=chelsea, timeout=PATIENCE_S)

        assert exit_code(server) == 70


def test_an_upload_interrupted_by_the_end_of_the_drain_gets_a_problem(small_bundle: Path) -> None:
    with running(small_bundle, drain_timeout_s=0.3) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as slow:
            slow.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\nhalf")
            httpx.get(
                f"{server.url}/livez", timeout=PATIENCE_S
            )  # by now the server has started the upload
            server.process.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: slow.recv(65536), b""))

        assert exit_code(server) == 0

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"draining"' in answer
    assert not [line for line in server.lines if "exception" in line]
