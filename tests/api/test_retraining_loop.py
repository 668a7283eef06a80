"""From a drift alert to a promoted version, with a server, a receiver and a cheap bundle.

`tests/docker/test_end_to_end.py` does the same with a real Prometheus and a real fit. A slow test
retrains digits with new labels.
"""

from __future__ import annotations

import io
import shutil
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
from tests.unit.models import random_features
from tests.unit.models.retrain import reseal
from tests.unit.models.retrain.world import USUAL, payload, prometheus
from tidegate.models.build_request import BuildOptions, Data
from tidegate.models.digits.images import data as digits
from tidegate.models.pipeline import make
from tidegate.models.training import probe, split
from tidegate.service.bundle.store import Bundle, open_bundle
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

RECEIVER = (sys.executable, "-m", "tidegate.models", "retrain-request", "--port", "0")
FIT_S = 900.0  # on a busy machine


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
    command = f"{sys.executable} {reseal.__file__}"
    with (
        prometheus(USUAL) as metrics,
        running(bundle="", models=models) as server,
        started(
            *RECEIVER,
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


COUNTS = {"train": 90, "calibrate": 40, "test": 25}


def some_digits(folder: Path) -> Path:
    """Copy some digits as train, calibrate and test, with few sevens in train."""
    source = digits()
    for part, count in COUNTS.items():
        for digit in map(str, range(10)):
            images = sorted((getattr(source, part) / digit).iterdir())
            few = 12 if (part, digit) == ("train", "7") else count
            (folder / part / digit).mkdir(parents=True)
            for image in images[:few]:
                shutil.copy(image, folder / part / digit)
    return folder


def first_version(images: Path, models: Path, cache: Path) -> Bundle:
    """Make version 1: a linear layer on random filters, which takes seconds."""
    data = split.make(images)
    made = probe.imported(random_features.imported(10), data, why="A test.", seed=0, cache=cache)
    options = BuildOptions("digits", "1", "a test", accept_weak_gate=True)
    return make(made, Data.of(data), options, models)


def classify_and_label(client: httpx.Client, images: list[Path], kept: Path) -> None:
    """Classify images, and report their true classes, until all are kept for review with them."""
    for image in images:
        answer = client.post("/classify", content=image.read_bytes())
        found = {"request_id": answer.headers["x-request-id"], "class_id": int(image.parent.name)}
        client.post("/feedback", json=found).raise_for_status()

    def labelled() -> bool:
        return sum("true_class" in path.read_text() for path in kept.rglob("*.json")) == len(images)

    wait_for(labelled, "not all images are kept with their class", PATIENCE_S)


@pytest.mark.slow
def test_labels_of_a_drift_become_a_retrained_shadow(tmp_path: Path) -> None:
    """More sevens come than in training, which had few: they are labelled and learned."""
    models, images, kept = (tmp_path / name for name in ("models", "images", "kept"))
    first = first_version(some_digits(images), models, tmp_path / "features")
    settings = '[digits]\nstable = "1"\nnew_versions = { alias = "shadow", share = 1.0 }\n'
    (models / "serving.toml").write_text(settings)
    unseen = digits().calibrate.absolute()
    sevens = sorted((unseen / "7").iterdir())[COUNTS["calibrate"] :][:80]
    others = [path for d in "012345689" for path in sorted((unseen / d).iterdir())[50:53]]
    retrain = f"{sys.executable} -m tidegate.models retrain --accept-weak-gate --data {images}"
    retrain += f" --images {tmp_path / 'export'} --run {tmp_path / 'runs/2'}"
    review = {"review_dir": kept, "review_accepted_share": 1.0, "review_images_per_s": 1000}

    with (
        prometheus(USUAL) as metrics,
        running(bundle="", models=models, **review) as server,
        started(
            *RECEIVER,
            *("--out", tmp_path / "requests", "--prometheus", metrics),
            *("--run", retrain, "--models", models),
            cwd=ROOT,
            listening="listening on http://([0-9.:]+)",
        ) as receiving,
        httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client,
    ):
        classify_and_label(client, [*sevens, *others], kept)
        assert main(["review", "export", str(kept), str(tmp_path / "export")]) == 0
        alert = payload(model="digits", version="1", digest=first.short_digest)
        answer = httpx.post(f"{receiving.url}/alerts", json=alert, timeout=PATIENCE_S)
        assert answer.json()["outcomes"][0]["outcome"] == "filed"

        def listed() -> dict[str, Any]:
            url = f"{receiving.url}/requests"
            return dict(httpx.get(url, timeout=PATIENCE_S).json()["requests"][0])

        wait_for(lambda: listed().get("outcome"), "the command does not end", FIT_S)
        assert listed()["outcome"] == "done", listed()

        def rollout() -> dict[str, Any]:
            return dict(client.get("/models/digits/rollout").json())

        wait_for(lambda: rollout()["shadow"], "the new version is not the shadow", PATIENCE_S)
        assert (rollout()["shadow"]["version"], rollout()["stable"]["version"]) == ("2", "1")

    report = (tmp_path / "runs/2/report.md").read_text()
    assert "## The old test images" in report
    assert "## The new images that were held out" in report
    assert (tmp_path / "runs/2/card-1.md").read_text() != (
        tmp_path / "runs/2/card-2.md"
    ).read_text()
    old, new = (open_bundle(models / f"digits/{n}").manifest for n in (1, 2))
    assert old.gate.splits["test"] == new.gate.splits["test"]
    assert old.gate.splits["train"] != new.gate.splits["train"]
