"""SIGKILL and a restart, as by compose, Kubernetes and systemd: the drift state survives.

The supervisor is a few lines of this test; service, Prometheus, rules and state file are real.
Times are shortened: the state is saved five times per second, and rules are evaluated every second
with a `for` of one.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.docker.programs import (
    Process,
    free_port,
    prometheus,
    wait_for,
)
from tests.server import DEMO_BUNDLE, PATIENCE_S, PHOTOS, Server, launched

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
IN_A_HURRY = (
    sys.executable,
    "-c",
    "from tidegate.service import cli, drift_watch as watch;"
    "watch._PUBLISH_EVERY_S, watch._SAVE_EVERY = .2, 1;"
    "raise SystemExit(cli.main(['serve']))",
)
NOISE, PHOTOGRAPHS = 40, 6


def asked(prometheus: Process, query: str) -> float:
    """Return the value of a query; 0 if it has none."""
    address = f"{prometheus.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:  # noqa: S310 - loopback
        found: list[Any] = json.load(answer)["data"]["result"]
    return float(found[0]["value"][1]) if found else 0.0


def noise() -> list[bytes]:
    """Return images that the demo's gate rejects."""
    rng = np.random.default_rng(5)
    files = []
    for _ in range(NOISE):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (224, 224, 3), np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    return files


def send(server: Server, bodies: list[bytes]) -> None:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        statuses = {client.post("/classify", content=body).status_code for body in bodies}
    assert statuses <= {200, 422}


def observed(server: Server) -> int:
    images: int = httpx.get(f"{server.url}/drift", timeout=PATIENCE_S).json()["images"]
    return images


def test_a_killed_process_restarts_and_loses_no_data_that_alerts_use(
    tmp_path: Path,
) -> None:
    port, state = free_port(), tmp_path / "drift"
    photographs = [path.read_bytes() for path in sorted(PHOTOS.iterdir())][:PHOTOGRAPHS]
    with ExitStack() as stack:
        watching = stack.enter_context(prometheus(tmp_path, f"127.0.0.1:{port}", for_s=1))
        rejected = 'sum(tidegate_ood_decisions_total{decision="reject"})'
        firing = 'count(ALERTS{alertname="TidegateOodRateHigh", alertstate="firing"})'

        with launched(DEMO_BUNDLE, IN_A_HURRY, port=port, drift_state=state) as first:
            first.wait_for("ready")
            wait_for(lambda: asked(watching, "count(tidegate_model_info)"), "no scrape")
            send(first, [*photographs, *noise()])
            before = observed(first)
            wait_for(lambda: asked(watching, rejected) >= NOISE, "the images are not scraped")
            wait_for(lambda: asked(watching, firing), "no alert")
            saved = state.stat().st_mtime_ns
            wait_for(lambda: state.stat().st_mtime_ns != saved, "the state is not saved")
            first.process.send_signal(signal.SIGKILL)
            assert first.process.wait(PATIENCE_S) == -signal.SIGKILL
        wait_for(
            lambda: asked(watching, 'up{job="tidegate"} == bool 0'), "the outage was not noticed"
        )

        second = stack.enter_context(
            launched(DEMO_BUNDLE, IN_A_HURRY, port=port, drift_state=state)
        )
        second.wait_for("ready")
        assert httpx.get(f"{second.url}/readyz", timeout=PATIENCE_S).status_code == 200
        assert observed(second) == before == NOISE + PHOTOGRAPHS

        send(second, noise())
        assert observed(second) == before + NOISE
        both = "sum(tidegate:ood_flagged:increase1h{threshold='reject'})"
        # Prometheus handles the counter reset, so the alert's numbers cover both processes.
        wait_for(lambda: asked(watching, both) > 1.5 * NOISE, "the first life is forgotten")
        wait_for(lambda: asked(watching, firing), "the alert does not come back")
        assert asked(watching, "max(prometheus_rule_evaluation_failures_total)") == 0
