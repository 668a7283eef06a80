from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.serving.folders import add_version, repository
from tidegate.service.errors import ServingInvalid
from tidegate.service.serving.repository import list_repository


def test_versions_are_listed_by_model_from_the_oldest_to_the_newest(tmp_path: Path) -> None:
    found = repository(tmp_path, parts="10 9 1", cats="2")

    assert found.versions == {"cats": ("2",), "parts": ("1", "9", "10")}
    assert found.path("parts", "9") == tmp_path / "parts" / "9"


def test_hidden_folders_and_folders_without_a_manifest_are_ignored(tmp_path: Path) -> None:
    add_version(tmp_path, "parts", "1")
    add_version(tmp_path, "parts", "2", "parts/.pulling-abc")
    add_version(tmp_path, "cats", "1", ".cache/1")
    (tmp_path / "parts" / "notes" / "manifest.json").mkdir(parents=True)
    (tmp_path / "parts" / "empty").mkdir()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "serving.toml").write_text("")

    found = list_repository(tmp_path)

    assert (found.versions, found.refused) == ({"parts": ("1",)}, {})


def test_links_as_kubernetes_makes_them_are_followed(tmp_path: Path) -> None:
    add_version(tmp_path, "parts", "1", "..2026_11_30/parts/1")
    (tmp_path / "..data").symlink_to("..2026_11_30")
    (tmp_path / "parts").symlink_to("..data/parts")

    assert list_repository(tmp_path).versions == {"parts": ("1",)}


def test_a_bundle_in_the_wrong_folder_is_refused_with_the_right_one(tmp_path: Path) -> None:
    add_version(tmp_path, "parts", "1")
    add_version(tmp_path, "parts", "1", "parts/2")
    add_version(tmp_path, "parts", "3", "cats/3")

    found = list_repository(tmp_path)

    assert found.versions == {"parts": ("1",)}
    assert found.refused == {
        ("cats", "3"): f"the bundle in {tmp_path}/cats/3 is parts 3: move it to {tmp_path}/parts/3",
        ("parts", "2"): f"the bundle in {tmp_path}/parts/2 is parts 1: remove it, because that is "
        f"in {tmp_path}/parts/1",
    }


@pytest.mark.parametrize("content", [None, b"mod", b"model and more"])
def test_a_version_that_is_still_being_copied_is_refused(
    tmp_path: Path, content: bytes | None
) -> None:
    model = add_version(tmp_path, "parts", "1") / "model.onnx"
    model.unlink()
    if content is not None:
        model.write_bytes(content)

    found = list_repository(tmp_path)

    assert found.versions == {}
    assert "model.onnx" in found.refused["parts", "1"]
    assert "is missing or incomplete: copy the bundle again" in found.refused["parts", "1"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        b'{"name": "parts", "version": "1"}',
        b'{"name": "parts", "version": "1", "files": []}',
        b'{"name": "parts", "version": "1", "files": {"model.onnx": 5}}',
        b'{"name": "parts", "version": "1", "files": {"model.onnx": {"bytes": "x"}}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = add_version(tmp_path, "parts", "1")
    (folder / "manifest.json").write_bytes(content)

    found = list_repository(tmp_path)

    assert found.versions == {}
    assert found.refused["parts", "1"] == (
        f"manifest.json in {folder} is damaged: copy the bundle again"
    )


@pytest.mark.parametrize(
    ("name", "version", "reason"),
    [
        ("default", "1", "'default' is not the name of a model: rename the folder"),
        ("Parts", "1", "'Parts' is not the name of a model: rename the folder"),
        ("parts", "latest", "'latest' is not a version: build the bundle with another --version"),
        ("parts", "canary", "'canary' is not a version: build the bundle with another --version"),
        ("parts", "1 2", "'1 2' is not a version: build the bundle with another --version"),
    ],
)
def test_names_with_another_meaning_are_refused(
    tmp_path: Path, name: str, version: str, reason: str
) -> None:
    add_version(tmp_path, name, version)

    found = list_repository(tmp_path)

    assert found.versions == {}
    assert reason in found.refused[name, version]


def test_a_manifest_with_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    folder = add_version(tmp_path, "parts", "1")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {"x\0y": {"bytes": 5}}
    (folder / "manifest.json").write_text(json.dumps(manifest))

    assert ("parts", "1") in list_repository(tmp_path).refused


def test_a_complete_version_is_read_again_only_if_its_manifest_is_another_file(
    tmp_path: Path,
) -> None:
    known = repository(tmp_path, parts="1 2")
    manifest = tmp_path / "parts" / "1" / "manifest.json"
    status = manifest.stat()
    manifest.write_bytes(b" " * status.st_size)
    os.utime(manifest, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert list_repository(tmp_path, known) == known
    assert list_repository(tmp_path).versions == {"parts": ("2",)}
    os.utime(manifest)
    assert list_repository(tmp_path, known).versions == {"parts": ("2",)}


def test_a_model_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path, parts="1")
    private = tmp_path / "lost+found"
    private.mkdir()
    listed = Path.iterdir

    def deny(path: Path) -> Iterator[Path]:
        if path == private:  # root reads everything, and tests may run as root
            raise PermissionError(errno.EACCES, "Permission denied", f"{path}")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", deny)

    found = list_repository(tmp_path)

    assert found.versions == {"parts": ("1",)}
    assert list(found.refused.values()) == [f"{private} cannot be read: Permission denied"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServingInvalid, match="nowhere cannot be read: No such file or directory"):
        list_repository(tmp_path / "nowhere")
