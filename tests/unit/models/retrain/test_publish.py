"""What a request's command made becomes the next version of its model, or the result says why."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.bundle.tiny_bundle import put, sound_files
from tests.unit.models.retrain import reseal
from tests.unit.models.retrain.world import USUAL, payload, prometheus
from tidegate.models.retrain.alerts import Notification
from tidegate.models.retrain.errors import OptionRefused
from tidegate.models.retrain.folder import RequestFolder
from tidegate.models.retrain.prometheus import Prometheus
from tidegate.models.retrain.publish import Publisher, next_version
from tidegate.models.retrain.receiver import Receiver
from tidegate.models.retrain.runner import Runner
from tidegate.service.bundle.manifest import SLUG
from tidegate.service.bundle.store import open_bundle
from tidegate.service.cli import main
from tidegate.service.serving.order import age

pytestmark = pytest.mark.process
RESEAL = [sys.executable, reseal.__file__]
slugs = st.from_regex(SLUG, fullmatch=True)


@pytest.mark.parametrize(
    ("versions", "following"),
    [
        (("1",), "2"),
        (("9", "10"), "11"),
        (("1.9.0", "1.10.0-rc.1"), "1.10.0-rc.2"),
        (("1.10.0-rc",), "1.10.1"),
        (("2026-09",), "2026-10"),
        (("7-fixed",), "8"),
        (("first",), "first-2"),
    ],
)
def test_the_next_version_counts_on_from_the_newest(
    versions: tuple[str, ...], following: str
) -> None:
    assert next_version(versions) == following


@given(st.lists(slugs, min_size=1, max_size=5))
def test_the_next_version_is_newer_than_all_others(versions: list[str]) -> None:
    following = next_version(versions)

    assert all(age(following) > age(version) for version in versions)


class World:
    """A folder of models with version 1 of model m, and a filed request about it."""

    def __init__(self, root: Path, url: str) -> None:
        self.models = root / "models"
        self.seal(self.models, "1")
        self.folder = RequestFolder(root / "requests", timedelta(days=1))
        self.folder.open()
        filed: list[Path] = []
        self.receiver = Receiver(
            self.folder, Prometheus(url), None, 0, filed.append, lambda: datetime.now(UTC)
        )
        self.receiver.take(Notification.parse(json.dumps(payload()).encode()))
        [self.request] = filed

    @staticmethod
    def seal(models: Path, version: str) -> None:
        def change(fields: dict[str, Any]) -> None:
            fields["name"], fields["version"] = "m", version

        put(models / "m" / version, sound_files(), change)

    def run(self, *command: str) -> dict[str, Any]:
        """Run the command for the request, and return how it is listed."""
        runner = Runner(list(command), self.folder, 50, Publisher(self.models, self.folder))
        runner.start()
        runner.submit(self.request)
        runner._waiting.put(None)  # after it, so that the thread ends by itself
        runner._thread.join()
        runner.close()
        assert not list(self.folder.path.glob(".making-*"))
        [listed] = self.receiver.listing()
        return listed

    def versions(self) -> list[str]:
        return sorted(path.name for path in (self.models / "m").glob("[!.]*"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with prometheus(USUAL) as url:
        yield World(tmp_path, url)


def test_the_bundle_of_the_command_is_published_as_the_next_version(world: World) -> None:
    listed = world.run(*RESEAL)

    made = open_bundle(world.models / "m/2")
    assert (listed["outcome"], listed["reason"]) == ("done", "")
    assert listed["bundle"] == {"name": "m", "version": "2", "digest": made.digest}
    assert (made.manifest.name, made.manifest.version) == ("m", "2")
    assert world.versions() == ["1", "2"]


@pytest.mark.parametrize("deleted", ["2", "3-by-hand"])
def test_the_number_of_a_deleted_version_is_not_used_again(world: World, deleted: str) -> None:
    if deleted == "2":
        assert world.run(*RESEAL)["bundle"]["version"] == "2"
    else:
        world.seal(world.models, deleted)
        world.run(sys.executable, "-c", "pass")  # makes nothing
    shutil.rmtree(world.models / "m" / deleted)

    listed = world.run(*RESEAL)

    assert listed["bundle"]["version"] == ("3" if deleted == "2" else "4")


def test_folders_that_are_no_versions_do_not_count(world: World) -> None:
    for name in ("lost+found", "latest", ".pulling-0"):
        (world.models / "m" / name).mkdir()
    (world.models / "m" / "notes.txt").write_text("")

    assert world.run(*RESEAL)["bundle"]["version"] == "2"


def test_a_bundle_that_is_not_the_requested_one_is_refused(world: World) -> None:
    listed = world.run(*RESEAL, "7")

    assert (listed["outcome"], listed["bundle"]) == ("refused", None)
    assert "made m 7 instead of m 2" in listed["reason"]
    assert world.versions() == ["1"]


def test_a_damaged_bundle_is_refused(world: World) -> None:
    damage = 'python "$0" "$1" && echo >> "$RETRAIN_OUT/m/2/labels.txt"'.replace(
        "python", sys.executable
    )
    listed = world.run("sh", "-c", damage, reseal.__file__)

    assert listed["outcome"] == "refused"
    assert "labels.txt" in listed["reason"]
    assert world.versions() == ["1"]


def test_of_two_bundles_none_is_published(world: World) -> None:
    both = 'python "$0" "$1" && python "$0" 3 "$1"'.replace("python", sys.executable)

    listed = world.run("sh", "-c", both, reseal.__file__)

    assert listed["outcome"] == "refused"
    assert "made 2 bundles" in listed["reason"]


@pytest.mark.parametrize(("code", "outcome"), [("pass", "done"), ("raise SystemExit(2)", "failed")])
def test_a_command_may_make_no_bundle(world: World, code: str, outcome: str) -> None:
    listed = world.run(sys.executable, "-c", code)

    assert (listed["outcome"], listed["bundle"], listed["reason"]) == (outcome, None, "")


def test_a_failed_command_publishes_nothing(world: World) -> None:
    fail = 'python "$0" "$1"; exit 3'.replace("python", sys.executable)

    listed = world.run("sh", "-c", fail, reseal.__file__)

    assert (listed["outcome"], listed["exit_status"]) == ("failed", 3)
    assert world.versions() == ["1"]


def test_a_version_that_appeared_meanwhile_is_not_replaced(world: World) -> None:
    late = f'{sys.executable} "$0" "$1"; mkdir "{world.models}/m/2"'

    listed = world.run("sh", "-c", late, reseal.__file__)

    assert listed["outcome"] == "refused"
    assert "is not a valid bundle" in listed["reason"]


def test_without_the_drifted_bundle_the_command_does_not_run(world: World) -> None:
    (world.models / "m/1").rename(world.models / "m/0")

    listed = world.run(*RESEAL)

    assert listed["outcome"] == "not-run"
    assert "There is no bundle" in listed["reason"]


def test_the_folder_of_models_must_be_writable(world: World, tmp_path: Path) -> None:
    with pytest.raises(OptionRefused, match="no such folder"):
        Publisher(tmp_path / "elsewhere", world.folder).check()
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if not os.access(locked, os.W_OK):  # root may write everywhere
        with pytest.raises(OptionRefused, match="not writable"):
            Publisher(locked, world.folder).check()


def test_models_without_a_command_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.service.logs.configure", lambda *_: None)
    given = ["retrain-request", "--out", str(tmp_path), "--models", str(tmp_path)]

    assert main(given) == 1
    assert re.search("--models requires --run", capsys.readouterr().err)
