"""`make monitoring` with real binaries: scraping, rules and the route of alerts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from tests.docker.programs import free_port
from tests.server import Server
from tidegate.models.retrain.access import read_token

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docker" / "monitoring.sh"
PATIENCE_S = 120

pytestmark = [
    pytest.mark.skipif(
        not (ROOT / ".tools/alertmanager/usr/bin/prometheus-alertmanager").exists(),
        reason="Prometheus and Alertmanager were not fetched (make tools)",
    ),
]


def asked(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:  # noqa: S310 - loopback
        return json.load(answer)


def until(found: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Poll until the answer is truthy; fail if the script exits or the time is over."""
    deadline = time.monotonic() + PATIENCE_S
    answer: Any = None
    while time.monotonic() < deadline:
        assert process.poll() is None, "the script has ended"
        try:
            if answer := found():
                return answer
        except (URLError, OSError):
            pass
        process_is_there(process)
    raise AssertionError(f"not within {PATIENCE_S} s: {answer}")


def process_is_there(process: subprocess.Popen[str]) -> None:
    """Wait a short time, or less if the process exits."""
    try:
        process.wait(0.2)
    except subprocess.TimeoutExpired:
        return


@pytest.fixture
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture
def monitoring(
    server: Server, tmp_path: Path, ports: tuple[int, int]
) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ,
        "PROMETHEUS_PORT": str(ports[0]),
        "ALERTMANAGER_PORT": str(ports[1]),
        "DATA": str(tmp_path),
    }
    process = subprocess.Popen(
        ["sh", SCRIPT, server.url.removeprefix("http://")], env=environment, text=True
    )
    yield process
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0


def test_a_running_service_is_scraped_and_its_alerts_are_routed(
    monitoring: subprocess.Popen[str], ports: tuple[int, int], tmp_path: Path
) -> None:
    api = f"http://127.0.0.1:{ports[0]}/api/v1"

    up = until(lambda: asked(f"{api}/query?query=up==1")["data"]["result"], monitoring)
    rules = asked(f"{api}/rules")["data"]["groups"]
    heard = until(lambda: asked(f"{api}/alertmanagers")["data"]["activeAlertmanagers"], monitoring)
    routed = until(lambda: asked(f"http://127.0.0.1:{ports[1]}/api/v2/status"), monitoring)

    assert up[0]["metric"]["job"] == "tidegate"
    assert {Path(group["file"]).name for group in rules} == {"drift.yml", "service.yml"}
    assert heard[0]["url"].startswith(f"http://127.0.0.1:{ports[1]}/")
    assert "127.0.0.1:9000/alerts" in routed["config"]["original"]
    token = tmp_path / "retrain-token"
    assert f"credentials_file: {token}" in routed["config"]["original"]
    assert len(read_token(token)) == 64
    assert token.stat().st_mode & 0o077 == 0
