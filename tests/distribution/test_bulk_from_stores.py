"""`tidegate classify` lists and reads the images in a real store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.distribution import servers
from tests.distribution.servers import BUCKET, ROOT, Store
from tests.server import DEMO_BUNDLE, PHOTOS
from tidegate.service.distribution.object_store import ObjectPlace
from tidegate.service.distribution.uri import parse

PATIENCE_S = 300

pytestmark = [pytest.mark.slow, pytest.mark.process]


@pytest.fixture(scope="module", params=["s3", "az"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    start = {"s3": servers.seaweedfs, "az": servers.azurite}
    with start[request.param](tmp_path_factory.mktemp(request.param)) as running:
        yield running


def rows(source: str, out: Path, store: Store) -> list[dict[str, Any]]:
    """Classify, and return the rows without their paths."""
    words = ["classify", source, "--bundle", str(DEMO_BUNDLE), "--out", str(out), "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "tidegate.service", *words],
        cwd=ROOT,
        env={**os.environ, **store.environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    return [{**row, "path": row["path"].rpartition("/")[2]} for row in found]


def test_images_below_a_prefix_are_classified_in_order(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    address = f"{store.uri}/set"
    names = sorted(path.name for path in PHOTOS.glob("*.*g"))
    ObjectPlace(parse(address)).publish(PHOTOS, names, lambda _: None)

    found = rows(address, tmp_path / "remote.jsonl", store)
    [one] = rows(f"{address}/{names[0]}", tmp_path / "one.jsonl", store)

    assert BUCKET in address
    assert [row["path"] for row in found] == names
    assert found == rows(str(PHOTOS), tmp_path / "local.jsonl", store)
    assert one["sha256"] == found[0]["sha256"]
