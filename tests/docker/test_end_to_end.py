"""From images to a request for retraining, with real programs only.

The digits bundle behind a real server, a real Prometheus with the committed rules, a real
Alertmanager with the committed routes, and the receiver. Only times are shortened: rules are
evaluated every second with a `for` of two, and Alertmanager does not wait.
"""

from __future__ import annotations

import itertools
import json
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from tests.docker.programs import LISTENING, ROOT, free_port, prometheus, started, tool, wait_for
from tests.server import running
from tidegate.models.digits.images import LABELS, data
from tidegate.models.retrain.folder import FORMAT
from tidegate.service.cli import main

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(900)]
DOCKER = ROOT / "docker"


class Monitoring:
    """Prometheus and Alertmanager for one service, and the folder of requests."""

    def __init__(self, stack: ExitStack, folder: Path, service: str) -> None:
        alertmanager = tool("alertmanager", "prometheus-alertmanager")
        self.requests = folder / "requests"
        # Each needs the address of the next: Alertmanager the receiver's, the receiver
        # Prometheus's, and Prometheus Alertmanager's, whose port is therefore chosen first.
        self.alertmanager = f"127.0.0.1:{free_port()}"
        self.prometheus = stack.enter_context(
            prometheus(folder, service, alertmanager=self.alertmanager, for_s=2)
        ).url
        receiver = stack.enter_context(
            started(
                sys.executable,
                "-m",
                "tidegate.models",
                "retrain-request",
                "--out",
                self.requests,
                "--port",
                "0",
                "--prometheus",
                self.prometheus,
                "--token-file",
                folder / "token",
                "--make-token",
                cwd=ROOT,
                listening="listening on http://([0-9.:]+)",
            )
        )
        stack.enter_context(
            started(
                alertmanager,
                f"--config.file={self._routes(folder, receiver.url)}",
                f"--storage.path={folder / 'alerts'}",
                f"--web.listen-address={self.alertmanager}",
                "--cluster.listen-address=",
                cwd=alertmanager.parents[
                    2
                ],  # the fetched binary reads its templates relative to this folder
                listening=LISTENING,
            )
        )

    def firing(self) -> set[str]:
        """Return the names of the alerts in Alertmanager, including inhibited ones."""
        with urllib.request.urlopen(f"http://{self.alertmanager}/api/v2/alerts", timeout=10) as got:
            return {alert["labels"]["alertname"] for alert in json.load(got)}

    def value(self, query: str) -> float:
        """Return the value of a query; 0 if it has no series."""
        address = f"{self.prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - loopback
            found: list[Any] = json.load(answer)["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0

    def filed(self) -> list[Any]:
        found = [json.loads(path.read_text("utf-8")) for path in self.requests.glob("*.json")]
        return [one for one in found if one["format"] == FORMAT]

    @staticmethod
    def _routes(folder: Path, receiver: str) -> Path:
        config = yaml.safe_load((DOCKER / "alertmanager" / "alertmanager.yml").read_text("utf-8"))
        at_once = {"group_wait": "1s", "group_interval": "1s", "repeat_interval": "1s"}
        config["route"] |= at_once
        [retrain] = [r for r in config["route"]["routes"] if r["receiver"] == "retrain"]
        retrain |= at_once
        [hook] = next(r for r in config["receivers"] if r["name"] == "retrain")["webhook_configs"]
        hook["url"] = f"{receiver}/alerts"
        hook["http_config"]["authorization"]["credentials_file"] = str(folder / "token")
        path = folder / "alertmanager.yml"
        path.write_text(yaml.safe_dump(config))
        return path


def post(url: str, images: Iterable[Path]) -> None:
    """Send images, eight at a time."""
    with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        bodies = (path.read_bytes() for path in images)
        answers = list(pool.map(lambda body: client.post("/classify", content=body), bodies))
    assert {answer.status_code for answer in answers} <= {200, 422}


def test_drift_becomes_one_request_and_a_broken_camera_none(tmp_path: Path) -> None:
    assert main(["digits", "--out", str(tmp_path)]) == 0
    folders = data()
    digits = sorted(folders.test.rglob("*.png"))
    normal = [digits[place] for place in np.random.default_rng(0).integers(len(digits), size=1500)]
    sevens = list(itertools.islice(itertools.cycle(sorted((folders.test / "7").iterdir())), 800))
    inverted = sorted(folders.ood["inverted"].iterdir())[:400]

    with ExitStack() as stack:
        server = stack.enter_context(running(tmp_path / "digits/1"))
        monitoring = Monitoring(stack, tmp_path, server.url.removeprefix("http://"))
        decided = 'sum(tidegate_ood_decisions_total{job="tidegate"})'
        # A counter's first value is no increase, so the first image must follow a scrape.
        wait_for(lambda: monitoring.value('count(up{job="tidegate"} == 1)'), "no scrape")

        post(server.url, normal)
        wait_for(lambda: monitoring.value(decided) == 1500, "the images are not scraped")
        # All images have been scraped for longer than the longest shortened `for`.
        seen = "min(count_over_time((tidegate:predictions:increase1h > 1300)[1m:1s]))"
        wait_for(lambda: monitoring.value(seen) >= 8, "no rule has seen them")
        assert not monitoring.firing()
        assert not monitoring.filed()

        post(server.url, sevens)
        wait_for(lambda: "TidegateClassMixDrift" in monitoring.firing(), "no drift alert")
        wait_for(monitoring.filed, "no request")

        post(server.url, inverted)
        wait_for(lambda: "TidegateOodRateHigh" in monitoring.firing(), "no OOD alert")
        assert len(monitoring.filed()) == 1

    [request] = monitoring.filed()
    assert request["model"] == "digits"
    assert request["evidence"]["shifted_classes"][0]["class_id"] == str(LABELS.index("7"))
