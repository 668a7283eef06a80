"""From images to a request for retraining, and on to a promoted version, with real programs only.

The digits bundle behind a real server, a real Prometheus with the committed rules, a real
Alertmanager with the committed routes, and the receiver. Only times are shortened: rules are
evaluated every second with a `for` of two, and Alertmanager does not wait.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from tidegate.models.retrain.folder import FORMAT, RESULT
from tidegate.service.cli import main

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(1800)]
DOCKER = ROOT / "docker"


class Monitoring:
    """Prometheus and Alertmanager for one service, and the folder of requests."""

    def __init__(
        self, stack: ExitStack, folder: Path, service: str, options: Sequence[str | Path] = ()
    ) -> None:
        """`options` are more options of the receiver."""
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
                *options,
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
        return {name for name, _ in self.firing_of_versions()}

    def firing_of_versions(self) -> set[tuple[str, str]]:
        """Return the names of the alerts and the versions that they are about."""
        with urllib.request.urlopen(f"http://{self.alertmanager}/api/v2/alerts", timeout=10) as got:
            alerts = [alert["labels"] for alert in json.load(got)]
        return {(labels["alertname"], labels.get("version", "")) for labels in alerts}

    def value(self, query: str) -> float:
        """Return the value of a query; 0 if it has no series."""
        address = f"{self.prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - loopback
            found: list[Any] = json.load(answer)["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0

    def filed(self) -> list[Any]:
        found = [json.loads(path.read_text("utf-8")) for path in self.requests.glob("*.json")]
        return [one for one in found if one["format"] == FORMAT]

    def results(self) -> Iterator[Path]:
        """Return the files with the results of the commands."""
        return self.requests.glob(f"*{RESULT}")

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


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits bundle: the one in models/bundles, or a new one."""
    built = ROOT / "models/bundles/digits/1"
    if built.exists():
        return built
    if importlib.util.find_spec("torch") is None:
        pytest.skip("building the digits bundle needs torch")
    folder = tmp_path_factory.mktemp("digits")
    assert main(["digits", "--out", str(folder)]) == 0
    return folder / "digits/1"


def test_drift_becomes_one_request_and_a_broken_camera_none(bundle: Path, tmp_path: Path) -> None:
    folders = data()
    digits = sorted(folders.test.rglob("*.png"))
    normal = [digits[place] for place in np.random.default_rng(0).integers(len(digits), size=1500)]
    sevens = list(itertools.islice(itertools.cycle(sorted((folders.test / "7").iterdir())), 800))
    inverted = sorted(folders.ood["inverted"].iterdir())[:400]

    with ExitStack() as stack:
        server = stack.enter_context(running(bundle))
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


FIT_S = 900  # on a busy machine
# The judge needs fewer images with these margins; tests/unit/rollout holds it to its promises.
SERVING = """
[digits]
stable = "1"
new_versions = { alias = "shadow", share = 1.0 }

[digits.judge]
promote_shadow = true
promote = true
least_images = 200
errors = 0.1
late = 0.1
latency = 3.0
rejections = 0.1
"""


def more_sevens(images: Path) -> list[Path]:
    """Return all sevens of a folder of classes, and a third of the other digits."""
    digits = sorted(images.rglob("*.png"))
    return [path for n, path in enumerate(digits) if path.parent.name == "7" or n % 3 == 0]


def labelled(folder: Path) -> Path:
    """Return labelled images of the traffic after the drift, as models/retrain/refit.sh needs."""
    folders = data()
    for split, of in (("calibrate", folders.calibrate), ("test", folders.test)):
        for path in more_sevens(of):
            copy = folder / split / path.relative_to(of)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    (folder / "train").symlink_to(folders.train.absolute())
    return folder


def test_a_drift_alert_ends_in_a_promoted_version(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk-through of docs/guides/drift-and-retraining.md."""
    models = tmp_path / "models"
    shutil.copytree(bundle, models / "digits/1")
    (models / "serving.toml").write_text(SERVING)
    monkeypatch.setenv("IMAGES", str(labelled(tmp_path / "images")))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    test = data().test
    before, sevens = sorted(test.rglob("*.png")), sorted((test / "7").iterdir())
    after = more_sevens(test)
    rng = np.random.default_rng(0)

    def some(of: Sequence[Path], count: int) -> list[Path]:
        return [of[place] for place in rng.integers(len(of), size=count)]

    with ExitStack() as stack:
        server = stack.enter_context(running(bundle="", models=models))
        refit = ROOT / "models/retrain/refit.sh"
        monitoring = Monitoring(
            stack,
            tmp_path,
            server.url.removeprefix("http://"),
            ("--run", str(refit), "--models", models),
        )
        client = stack.enter_context(httpx.Client(base_url=server.url, timeout=60))

        def rollout() -> dict[str, Any]:
            found: dict[str, Any] = client.get("/models/digits/rollout").json()
            return found

        def post_until(reached: Callable[[dict[str, Any]], bool]) -> None:
            for _ in range(60):
                if reached(rollout()):
                    return
                post(server.url, some(after, 200))
            raise AssertionError(rollout())

        wait_for(lambda: monitoring.value('count(up{job="tidegate"} == 1)'), "no scrape")
        post(server.url, some(before, 1500))
        post(server.url, list(itertools.islice(itertools.cycle(sevens), 800)))
        drift = ("TidegateClassMixDrift", "1")
        wait_for(lambda: drift in monitoring.firing_of_versions(), "no drift alert")
        wait_for(lambda: rollout()["shadow"], "the new bundle is not the shadow", FIT_S)

        post_until(lambda now: now["canary"] is not None)
        assert main(["serving", "set", "digits", "canary=2:0.5", "--models", str(models)]) == 0
        post_until(lambda now: now["stable"]["version"] == "2")
        wait_for(lambda: drift not in monitoring.firing_of_versions(), "an alert on version 1")
        post(server.url, some(after, 1500))
        seen = 'min_over_time(tidegate:class_mix:z1h{version="2"}[5s:1s])'
        wait_for(lambda: monitoring.value(f"count({seen})"), "no rule has seen version 2")
        assert not {name for name, version in monitoring.firing_of_versions() if version == "2"}
        events = rollout()["events"]

    assert [event["step"] for event in events] == ["promote", "promote-shadow"]
    [made] = [json.loads(path.read_text("utf-8")) for path in monitoring.results()]
    assert (made["outcome"], made["bundle"]["version"]) == ("done", "2")
