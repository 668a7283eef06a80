"""`tidegate retrain`: mistakes are explained before long work, and an alert ends in a shadow."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docker.programs import wait_for
from tests.server import DEMO_BUNDLE, PATIENCE_S, running
from tests.unit.bundle.tiny_bundle import put, sound_files
from tests.unit.models.retrain.world import USUAL, payload, prometheus
from tidegate.models.digits.images import data as digits
from tidegate.models.retrain.alerts import Notification
from tidegate.models.retrain.folder import RequestFolder
from tidegate.models.retrain.prometheus import Prometheus
from tidegate.models.retrain.publish import Publisher
from tidegate.models.retrain.receiver import Receiver
from tidegate.models.retrain.runner import Runner
from tidegate.service.bundle.store import Bundle, open_bundle
from tidegate.service.cli import main


def filed(path: Path, bundle: Bundle, **changes: Any) -> Path:
    """Write a request about a bundle."""
    manifest = bundle.manifest
    fields = {
        "format": "tidegate-retrain-request/1",
        "filed_at": "2026-01-01T00:00:00Z",
        "job": "tidegate",
        "model": manifest.name,
        "version": manifest.version,
        "digests": [bundle.short_digest],
        "group": "0" * 16,
        "fingerprints": ["ab12"],
    }
    path.write_text(json.dumps(fields | changes))
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(put(tmp_path / "models/tiny/1", sound_files()))


def words(request: Path, bundle: Bundle, *more: str) -> list[str]:
    root = request.parent
    (root / "export/0").mkdir(parents=True, exist_ok=True)
    (root / "export/0/x.png").write_bytes(b"not read")
    given = {"data": root / "data", "images": root / "export", "bundle": bundle.path}
    options = [f"--{name}={value}" for name, value in given.items()]
    return ["retrain", str(request), *options, "--version=2", f"--out={root / 'out'}", *more]


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "another format": ({"format": "other"}, "is not a request for retraining"),
    "another model": ({"model": "other"}, "The request is about other 1, but"),
    "another digest": ({"digests": ["d" * 12]}, "the bundle with digest dddddddddddd, but"),
    "no images of the training": ({}, "/data does not exist"),
}


@pytest.mark.parametrize(("changes", "message"), CHANGES.values(), ids=list(CHANGES))
def test_a_request_that_does_not_fit_is_explained(
    changes: dict[str, Any],
    message: str,
    bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    request = filed(tmp_path / "request.json", bundle, **changes)

    assert main(words(request, bundle)) == 1

    assert message in capsys.readouterr().err


def test_where_the_versions_are_must_be_given_once(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = filed(tmp_path / "request.json", bundle)

    assert main(words(request, bundle, f"--models={tmp_path / 'models'}")) == 1
    assert "--bundle is for a retraining without --models" in capsys.readouterr().err
    assert main(["retrain", str(request), "--data=x", "--images=x"]) == 1
    assert "Give --models DIR, the service's folder, or --bundle" in capsys.readouterr().err


def test_a_folder_that_is_not_divided_is_refused(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data/cat").mkdir(parents=True)

    assert main(words(filed(tmp_path / "request.json", bundle), bundle)) == 1

    assert "has no folders train, calibrate and test" in capsys.readouterr().err


SERVING = '[digits]\nstable = "1"\nnew_versions = { alias = "shadow", share = 1.0 }\n'
COUNTS = {"train": 90, "calibrate": 40, "test": 25}


def some_digits(folder: Path) -> Path:
    """Copy some digits, divided into train, calibrate and test, with few sevens in train."""
    source = digits()
    for split, count in COUNTS.items():
        for digit in map(str, range(10)):
            images = sorted((getattr(source, split) / digit).iterdir())
            few = 12 if (split, digit) == ("train", "7") else count
            (folder / split / digit).mkdir(parents=True)
            for image in images[:few]:
                shutil.copy(image, folder / split / digit)
    return folder


def label(client: httpx.Client, images: list[Path], kept: Path) -> None:
    """Classify images, keep them for review, and report their true classes."""
    for image in images:
        answer = client.post("/classify", content=image.read_bytes())
        found = {"request_id": answer.headers["x-request-id"], "class_id": int(image.parent.name)}
        client.post("/feedback", json=found).raise_for_status()
    wait_for(lambda: len(list(kept.rglob("*.json"))) == len(images), "images are not kept")


def request_of(folder: RequestFolder, version: Bundle, url: str) -> tuple[Path, Receiver]:
    """File a request for an alert about this version."""
    requests: list[Path] = []
    prom = Prometheus(url)
    receiver = Receiver(folder, prom, None, 0, requests.append, lambda: datetime.now(UTC))
    alert = payload(model="digits", version="1", digest=version.short_digest)
    receiver.take(Notification.parse(json.dumps(alert).encode()))
    [request] = requests
    return request, receiver


@pytest.mark.slow
@pytest.mark.process
def test_an_alert_ends_in_a_shadow_that_was_retrained_with_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drift of the class mix: more sevens, of which training had few."""
    models, images = tmp_path / "models", some_digits(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    train = ["train", f"--data={images}", f"--model=bundle:{DEMO_BUNDLE.absolute()}"]
    named = ["--name=digits", "--version=1", f"--out={models}", "--accept-weak-gate"]
    assert main([*train, *named, "--alpha-reject=0.02"]) == 0
    first = open_bundle(models / "digits/1")
    (models / "serving.toml").write_text(SERVING)
    unseen = digits().calibrate.absolute()
    sevens = sorted((unseen / "7").iterdir())[COUNTS["calibrate"] :][:80]
    others = [p for d in "012345689" for p in sorted((unseen / d).iterdir())[50:53]]
    kept = tmp_path / "kept"
    settings = {"review_dir": kept, "review_accepted_share": 1.0, "review_images_per_s": 1000}

    with running(bundle="", models=models, **settings) as server, prometheus(USUAL) as url:
        client = httpx.Client(base_url=server.url, timeout=PATIENCE_S)
        label(client, [*sevens, *others], kept)
        assert main(["review", "export", str(kept), str(tmp_path / "export")]) == 0
        folder = RequestFolder(tmp_path / "requests", timedelta(days=1))
        folder.open()
        request, receiver = request_of(folder, first, url)
        runner = Runner(
            _command(images, tmp_path / "export"), folder, 3000, Publisher(models, folder)
        )
        runner.start()
        runner.submit(request)
        runner._waiting.put(None)  # after it, so that the thread ends by itself
        runner._thread.join()
        runner.close()
        [listed] = receiver.listing()

        def rollout() -> dict[str, Any]:
            return dict(client.get("/models/digits/rollout").json())

        assert listed["outcome"] == "done", listed
        wait_for(_shadow_is(rollout, "2"), "the new version is not the shadow", PATIENCE_S)
        assert rollout()["stable"]["version"] == "1"

    report = (tmp_path / "runs/digits/2/report.md").read_text()
    assert "## The old test images" in report
    assert "## The new images that were held out" in report
    second = open_bundle(models / "digits/2")
    old, new = (b.manifest.gate.splits["train"] for b in (first, second))
    assert old != new
    assert first.manifest.evaluation is not None
    assert second.manifest.evaluation is not None
    assert first.manifest.evaluation.images == second.manifest.evaluation.images


def _command(images: Path, export: Path) -> list[str]:
    program = [sys.executable, "-m", "tidegate.models", "retrain", "--accept-weak-gate"]
    return [*program, f"--data={images}", f"--images={export}"]


def _shadow_is(rollout: Callable[[], dict[str, Any]], version: str) -> Callable[[], bool]:
    return lambda: (rollout()["shadow"] or {}).get("version") == version
