"""The service serves and exits normally if stderr is not read, closed or full."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path

import httpx
import pytest

from tests.server import PATIENCE_S, QUICK, ROOT, SERVE


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def environment(small_bundle: Path, port: int) -> dict[str, str]:
    given = {**QUICK, "bundle": small_bundle, "port": port, "log_format": "json"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_")}
    return kept | {f"TIDEGATE_{name.upper()}": str(value) for name, value in given.items()}


def ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    """Poll until the service is ready, because its log cannot be read."""
    while process.poll() is None:
        try:
            if client.get("/readyz").status_code == httpx.codes.OK:
                return True
        except httpx.TransportError:
            pass
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    return False


def is_answered(port: int, requests: int) -> bool:
    """Send pipelined requests, each of which logs a line; return whether all are answered."""
    path, last = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n", b"Connection: close\r\n"
    sent = (path + b"\r\n") * (requests - 1) + path + last + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        sender = threading.Thread(target=connection.sendall, args=(sent,))
        sender.start()
        answers = b"".join(iter(lambda: connection.recv(1 << 20), b""))
        sender.join()
    return answers.count(b"HTTP/1.1 404 ") == requests


def serves_and_ends(process: subprocess.Popen[bytes], port: int, requests: int) -> str:
    """Return the metrics after `requests` requests, each of which logs a line."""
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
            assert ready(client, process)
            assert is_answered(port, requests)
            metrics = client.get("/metrics").text
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
    return metrics


def test_a_reader_that_never_reads_does_not_block_the_service(small_bundle: Path) -> None:
    port = free_port()
    reader, writer = os.pipe()
    with subprocess.Popen(
        SERVE, cwd=ROOT, env=environment(small_bundle, port), stderr=writer
    ) as process:
        os.close(writer)
        metrics = serves_and_ends(process, port, 6000)  # more than fit into a pipe and the queue
    os.close(reader)

    dropped = re.search(r"^tidegate_log_lines_dropped_total (\S+)", metrics, re.MULTILINE)
    assert dropped is not None
    assert float(dropped[1]) > 0


@pytest.mark.parametrize("shell", ["exec {} 2>&-", "exec {} 2>/dev/full", "exec {} >&- 2>&- <&-"])
def test_a_closed_or_full_stderr_does_not_stop_the_service(small_bundle: Path, shell: str) -> None:
    port = free_port()
    command = shell.format(" ".join(SERVE))
    with subprocess.Popen(
        ["sh", "-c", command], cwd=ROOT, env=environment(small_bundle, port)
    ) as process:
        serves_and_ends(process, port, 50)
