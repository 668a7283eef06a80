from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.unit.models import tiny
from tidegate.models.sealing.write import current, locked, write_bundle
from tidegate.service.bundle.store import Bundle, open_bundle
from tidegate.service.errors import BundleRefused

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[4]


def write(model_dir: Path, seed: int = 0, recipe: str = "recipe 1") -> Bundle:
    files = tiny.bundle_files(seed)
    with locked(model_dir, lambda: None):
        return write_bundle(model_dir, tiny.bundle_manifest(files, recipe), files)


def test_a_written_bundle_opens(model_dir: Path) -> None:
    bundle = write(model_dir)

    assert bundle.path == model_dir / "1"
    assert open_bundle(model_dir / "1").digest == bundle.digest


def test_wherever_the_writer_is_killed_there_is_a_whole_bundle_or_none(tmp_path: Path) -> None:
    script = [sys.executable, "-m", "tests.unit.models.killed_writer", str(tmp_path)]

    done = subprocess.run(script, cwd=ROOT, check=True, capture_output=True, text=True)

    found = json.loads(done.stdout)
    assert len(found) > 40  # two runs, each with a step for every file and folder
    assert {after_death for _, _, after_death, _, _ in found} == {"none", "old", "new"}
    assert {repaired for *_, repaired, _ in found} == {"new"}
    assert {tuple(leftovers) for *_, leftovers in found} == {(".lock", "1")}


def test_the_same_bundle_is_found_again(model_dir: Path) -> None:
    digest = write(model_dir).digest

    found = current(model_dir / "1", tiny.provenance())

    assert isinstance(found, Bundle)
    assert found.digest == digest


def test_a_bundle_of_another_recipe_is_not_current(model_dir: Path) -> None:
    write(model_dir)

    assert "another recipe" in str(current(model_dir / "1", tiny.provenance("recipe 2")))


def test_no_bundle_is_not_current(model_dir: Path) -> None:
    assert "no bundle yet" in str(current(model_dir / "1", tiny.provenance()))


def test_any_changed_byte_is_refused_naming_the_file(model_dir: Path, tmp_path: Path) -> None:
    bundle = write(model_dir)
    for name in [*bundle.manifest.files, "manifest.json"]:
        copy = tmp_path / "copy"
        shutil.copytree(bundle.path, copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)

        with pytest.raises(BundleRefused, match=name):
            open_bundle(copy)

        shutil.rmtree(copy)


def test_a_broken_bundle_is_replaced(model_dir: Path) -> None:
    digest = write(model_dir).digest
    (model_dir / "1" / "labels.txt").unlink()

    assert write(model_dir).digest == digest


def test_something_else_in_the_bundles_place_is_replaced(model_dir: Path) -> None:
    model_dir.mkdir(parents=True)
    (model_dir / "1").write_text("not a folder")

    assert write(model_dir).digest == open_bundle(model_dir / "1").digest


def test_files_that_make_no_bundle_leave_the_old_one(model_dir: Path) -> None:
    digest = write(model_dir, seed=0).digest
    files = tiny.bundle_files(seed=1)
    manifest = tiny.bundle_manifest(files)
    files["labels.txt"] = b"too few"

    with pytest.raises(BundleRefused, match=r"labels\.txt"), locked(model_dir, lambda: None):
        write_bundle(model_dir, manifest, files)

    assert open_bundle(model_dir / "1").digest == digest


def test_leftovers_of_killed_writers_are_removed(model_dir: Path) -> None:
    (model_dir / ".building-1-dead").mkdir(parents=True)
    (model_dir / ".replaced-1-dead").mkdir()

    write(model_dir)

    assert sorted(item.name for item in model_dir.iterdir()) == [".lock", "1"]


def test_a_second_writer_waits_and_reports_it(model_dir: Path) -> None:
    model_dir.mkdir(parents=True)
    waiting = threading.Event()
    written = []

    def second() -> None:
        with locked(model_dir, waiting.set):
            written.append("second")

    with (model_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(150)
        written.append("first")
    thread.join(150)

    assert written == ["first", "second"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_an_os_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(PermissionError):
        write(tmp_path / "tiny")


def test_a_bundle_that_its_check_refuses_leaves_what_was_there(model_dir: Path) -> None:
    before = write(model_dir).digest
    files = tiny.bundle_files(1)

    def refuse(bundle: Bundle) -> None:
        raise BundleRefused(f"{bundle.path.name} gives other answers")

    with (
        locked(model_dir, lambda: None),
        pytest.raises(BundleRefused, match=r"\.building-1-.* gives other answers"),
    ):
        write_bundle(model_dir, tiny.bundle_manifest(files, "recipe 2"), files, refuse)

    assert open_bundle(model_dir / "1").digest == before
