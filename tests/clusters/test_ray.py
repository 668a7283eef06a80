"""Rows of a Ray Dataset are the command's, also if an actor is killed; and Ray Serve answers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from load_tests.server.start import free_port
from tests.clusters.conftest import BUNDLE, assert_equal, by_name
from tests.server import PHOTOS

pytest.importorskip("ray", reason="needs the extra ray: make test-clusters")

import httpx
import ray
from ray import serve

from tidegate.ray import Classifier, Rows, classify
from tidegate.ray.serving import application
from tidegate.service.errors import BundleRefused

pytestmark = pytest.mark.slow
ROWS = Rows("bytes", features=True)
QUICK = {"batch_size": 4}  # nothing is measured


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local cluster with two cores, whose dashboard is off."""
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR")
    yield
    serve.shutdown()
    ray.shutdown()


def read(images: Path) -> Any:
    return ray.data.read_binary_files(str(images), include_paths=True, override_num_blocks=6)


@pytest.mark.usefixtures("cluster")
def test_the_rows_are_those_of_the_command(images: Path, expected: dict[str, Any]) -> None:
    rows = classify(read(images), BUNDLE, ROWS, concurrency=2, batch_size=8, predictor=QUICK)

    assert_equal(by_name(rows.take_all()), expected)


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_is_killed_loses_nothing(
    images: Path, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "killed"

    class KilledOnce(Classifier):
        """Kills its process in the middle, once."""

        batches = 0

        def __call__(self, batch: Any) -> Any:
            self.batches += 1
            if self.batches == 2 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    monkeypatch.setattr("tidegate.ray.data.Classifier", KilledOnce)
    rows = classify(read(images), BUNDLE, ROWS, concurrency=2, batch_size=4, predictor=QUICK)

    assert_equal(by_name(rows.take_all()), expected)
    assert marker.exists()


@pytest.mark.usefixtures("cluster")
def test_the_service_answers_behind_ray_serve() -> None:
    settings = {"bundle": str(BUNDLE), "slots": 2, "threads_per_slot": 1, "deadline_ms": 60_000}
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(application(settings, num_replicas=1), route_prefix="/")
    url = f"http://127.0.0.1:{port}"

    ready = httpx.get(f"{url}/readyz", timeout=60)
    answer = httpx.post(f"{url}/classify", content=(PHOTOS / "coffee.png").read_bytes(), timeout=60)
    problem = httpx.post(f"{url}/classify", content=b"no image", timeout=60)

    assert ready.status_code == 200
    assert answer.json()["predictions"][0]["label"] == "espresso"
    assert (problem.status_code, problem.json()["code"]) == (415, "unsupported-image-type")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused):
        Classifier(tmp_path)
