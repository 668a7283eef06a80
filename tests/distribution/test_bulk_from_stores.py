"""`tidegate classify` lists and reads the images in a real store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.distribution import servers
from tests.distribution.servers import ROOT, Store
from tests.server import DEMO_BUNDLE, PHOTOS
from tidegate.service.distribution.object_store import ObjectPlace
from tidegate.service.distribution.uri import parse
from tidegate.service.offline import sources
from tidegate.service.offline.read_ahead import entries

PATIENCE_S = 300
OBJECTS = 1_100  # S3 lists a thousand at once

pytestmark = [pytest.mark.slow, pytest.mark.process]


@dataclass(frozen=True)
class Filled:
    """A store, and how files are put into it."""

    store: Store
    upload: Callable[[Path, str], None]  # every file of a folder, below a prefix


@pytest.fixture(scope="module", params=["s3", "az", "gs"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Filled]:
    folder = tmp_path_factory.mktemp(request.param)
    sources._place.cache_clear()
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        if request.param == "gs":
            store, upload = stack.enter_context(servers.fake_gcs(folder))
            filled = Filled(store, upload)
        else:
            start = {"s3": servers.seaweedfs, "az": servers.azurite}[request.param]
            store = stack.enter_context(start(folder))
            filled = Filled(store, partial(_publish, store))
        for name, value in store.environment.items():
            patch.setenv(name, value)
        yield filled


def _publish(store: Store, folder: Path, prefix: str) -> None:
    names = [path.name for path in folder.iterdir()]
    ObjectPlace(parse(f"{store.uri}/{prefix}")).publish(folder, names, lambda _: None)


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


def test_images_below_a_prefix_are_classified_in_order(filled: Filled, tmp_path: Path) -> None:
    address = f"{filled.store.uri}/set"
    names = sorted(path.name for path in PHOTOS.glob("*.*g"))
    filled.upload(PHOTOS, "set")

    found = rows(address, tmp_path / "remote.jsonl", filled.store)
    [one] = rows(f"{address}/{names[0]}", tmp_path / "one.jsonl", filled.store)

    assert [row["path"] for row in found] == names
    assert found == rows(str(PHOTOS), tmp_path / "local.jsonl", filled.store)
    assert one["sha256"] == found[0]["sha256"]


def test_a_listing_of_several_pages_is_whole_and_in_order(filled: Filled, tmp_path: Path) -> None:
    names = [f"{number:05}.jpg" for number in range(OBJECTS)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    filled.upload(tmp_path, "many")
    address = f"{filled.store.uri}/many"

    found = list(entries(enumerate(sources.items([address], None, "image")), 100))

    assert found == [(i, f"{address}/{n}", n.encode()) for i, n in enumerate(names)]
