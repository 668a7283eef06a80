"""From a drift alert to a promoted version, with a server, a receiver and a cheap bundle.

`tests/docker/test_end_to_end.py` does the same with a real Prometheus and a real fit.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.docker.programs import ROOT, started, wait_for
from tests.server import PATIENCE_S, running
from tests.unit.bundle.tiny_bundle import put, sound_files
from tests.unit.models.retrain import reseal
from tests.unit.models.retrain.world import USUAL, payload, prometheus
from tidegate.service.cli import main

pytestmark = pytest.mark.process
# With these margins a hundred images suffice; tests/unit/rollout holds the judge to its promises.
SERVING = """
[m]
stable = "1"
new_versions = { alias = "shadow", share = 1.0 }

[m.judge]
promote_shadow = true
promote = true
least_images = 100
errors = 0.5
late = 0.5
latency = 100.0
rejections = 0.5
classes = 0.5
p_values = false
"""


def folder_of_models(root: Path) -> Path:
    """Return a folder with version 1 of model m and a serving file."""

    def change(fields: dict[str, Any]) -> None:
        fields["name"], fields["version"] = "m", "1"

    put(root / "m" / "1", sound_files(), change)
    (root / "serving.toml").write_text(SERVING)
    return root


class Traffic:
    """Sends images, each another one, and reads what becomes of the model."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._random = np.random.default_rng(0)

    def rollout(self) -> dict[str, Any]:
        found: dict[str, Any] = self._client.get("/models/m/rollout").json()
        return found

    def until(self, reached: Callable[[dict[str, Any]], bool], most: int = 5000) -> None:
        """Send images until the rollout is as wanted; fail after `most`."""
        for sent in range(most):
            if sent % 20 == 0 and reached(self.rollout()):
                return
            answer = self._client.post("/classify", content=self._image())
            assert answer.status_code in (200, 422), answer.text
        raise AssertionError(self.rollout())

    def _image(self) -> bytes:
        content = io.BytesIO()
        noise = self._random.integers(256, size=(40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(content, "PNG")
        return content.getvalue()


def test_a_drift_alert_becomes_a_promoted_version(tmp_path: Path) -> None:
    models = folder_of_models(tmp_path / "models")
    receiver = (sys.executable, "-m", "tidegate.models", "retrain-request", "--port", "0")
    command = f"{sys.executable} {reseal.__file__}"
    with (
        prometheus(USUAL) as metrics,
        running(bundle="", models=models) as server,
        started(
            *receiver,
            *("--out", tmp_path / "requests", "--prometheus", metrics),
            *("--run", command, "--models", models),
            cwd=ROOT,
            listening="listening on http://([0-9.:]+)",
        ) as receiving,
        httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client,
    ):
        traffic = Traffic(client)
        assert traffic.rollout()["stable"]["version"] == "1"

        alert = httpx.post(f"{receiving.url}/alerts", json=payload(), timeout=PATIENCE_S)
        assert alert.json()["outcomes"][0]["outcome"] == "filed"
        wait_for(lambda: traffic.rollout()["shadow"], "the new version is not the shadow")
        traffic.until(lambda now: now["canary"] is not None)
        assert main(["serving", "set", "m", "canary=2:0.5", "--models", str(models)]) == 0
        traffic.until(lambda now: bool(now["stable"]["version"] == "2"))

        [listed] = httpx.get(f"{receiving.url}/requests", timeout=PATIENCE_S).json()["requests"]
        events = traffic.rollout()["events"]
    assert listed["bundle"]["version"] == "2"
    assert [(event["step"], event["by"], event["kept"]) for event in events] == [
        ("promote", "judge", True),
        ("promote-shadow", "judge", True),
    ]
    assert 'stable = "2"' in (models / "serving.toml").read_text()
