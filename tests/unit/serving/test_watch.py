from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.serving.folders import add_version
from tidegate.service.serving.serving_file import Place, find
from tidegate.service.serving.watch import Watch


@pytest.fixture
def models(tmp_path: Path) -> Path:
    add_version(tmp_path, "parts", "3")
    (tmp_path / "serving.toml").write_text('[parts]\nstable = "3"')
    return tmp_path


@pytest.fixture
def watch(models: Path) -> Watch:
    return Watch(find(Place(models)))


def test_a_change_counts_when_two_polls_agree(models: Path, watch: Watch) -> None:
    assert [watch.poll(), watch.poll()] == [None, None]
    (models / "serving.toml").write_text("[pa")  # an editor writes
    assert watch.poll() is None
    (models / "serving.toml").write_text('[parts]\nstable = "latest"')

    assert watch.poll() is None
    found = watch.poll()
    assert found is not None
    assert found.content == b'[parts]\nstable = "latest"'
    assert [watch.poll(), watch.poll()] == [None, None]


def test_the_same_content_with_another_time_is_no_change(models: Path, watch: Watch) -> None:
    os.utime(models / "serving.toml", (0, 0))

    assert [watch.poll(), watch.poll()] == [None, None]


def test_other_content_with_the_same_time_and_size_is_a_change(models: Path, watch: Watch) -> None:
    status = (models / "serving.toml").stat()
    (models / "serving.toml").write_text('[parts]\nstable = "4"')
    os.utime(models / "serving.toml", ns=(status.st_atime_ns, status.st_mtime_ns))

    assert watch.poll() is None
    assert watch.poll() is not None


def test_links_that_are_exchanged_as_in_a_config_map_are_a_change(tmp_path: Path) -> None:
    add_version(tmp_path / "bundles", "parts", "3")
    mount = tmp_path / "config"
    for at, text in (("..1", '[parts]\nstable = "3"'), ("..2", '[parts]\nstable = "latest"')):
        (mount / at).mkdir(parents=True)
        (mount / at / "serving.toml").write_text(text)
    (mount / "..data").symlink_to("..1")
    (mount / "serving.toml").symlink_to("..data/serving.toml")
    watch = Watch(find(Place(tmp_path / "bundles", mount / "serving.toml")))
    (mount / "..data_tmp").symlink_to("..2")
    (mount / "..data_tmp").rename(mount / "..data")

    assert watch.poll() is None
    found = watch.poll()

    assert found is not None
    assert found.content == b'[parts]\nstable = "latest"'


def test_a_file_that_is_gone_for_a_moment_is_no_change(models: Path, watch: Watch) -> None:
    (models / "serving.toml").rename(models / "aside")
    assert [watch.poll(), watch.poll()] == [None, None]
    (models / "aside").rename(models / "serving.toml")
    assert [watch.poll(), watch.poll()] == [None, None]


def test_a_first_file_is_a_change(models: Path) -> None:
    (models / "serving.toml").unlink()
    watch = Watch(find(Place(models)))
    (models / "serving.toml").write_text('[parts]\nstable = "latest"')

    assert watch.poll() is None
    assert watch.poll() is not None


def test_a_new_version_is_a_change_once_it_is_complete(models: Path, watch: Watch) -> None:
    model = add_version(models, "parts", "4") / "model.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:2])
    assert [watch.poll(), watch.poll()] == [None, None]
    model.write_bytes(content)

    assert watch.poll() is None
    found = watch.poll()
    assert found is not None
    assert found.repository.versions == {"parts": ("3", "4")}


def test_a_manifest_that_was_read_is_not_read_again(models: Path, watch: Watch) -> None:
    manifest = models / "parts" / "3" / "manifest.json"
    status = manifest.stat()
    manifest.write_bytes(b" " * status.st_size)
    os.utime(manifest, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert [watch.poll(), watch.poll()] == [None, None]


def test_what_cannot_be_read_is_no_change_and_is_logged_once(
    models: Path, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    (models / "serving.toml").unlink()
    (models / "serving.toml").mkdir()

    assert [watch.poll(), watch.poll(), watch.poll()] == [None, None, None]
    assert [record.getMessage() for record in caplog.records] == [
        f"serving file not read: {models}/serving.toml cannot be read: Is a directory."
    ]
