from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tidegate.service.followed_files import FollowedFiles


class Follower:
    """Follows files, and keeps the content of the first one that is loaded."""

    def __init__(self, *paths: Path) -> None:
        self.loaded: list[str] = []
        self.refused: list[bool] = []
        self._path = paths[0]
        self.files = FollowedFiles("the file", paths, self._load, self.refused.append)

    def _load(self) -> None:
        text = self._path.read_text()
        if "bad" in text:
            raise ValueError(f"{text} is bad")
        self.loaded.append(text)

    def poll_twice(self) -> None:
        self.files.poll()
        self.files.poll()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("first")
    return tmp_path / "file"


def test_a_change_is_loaded_once_when_two_polls_agree(path: Path) -> None:
    follower = Follower(path)
    follower.poll_twice()
    path.write_text("half")
    follower.files.poll()
    path.write_text("whole")
    follower.files.poll()

    assert follower.loaded == ["first"]
    follower.poll_twice()
    assert follower.loaded == ["first", "whole"]


def test_bad_content_changes_nothing_and_is_reported_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    follower = Follower(path)
    path.write_text("bad")
    for _ in range(3):
        follower.poll_twice()

    assert follower.loaded == ["first"]
    assert follower.refused[-1]
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert errors == ["the file not reloaded, what was loaded before stays: bad is bad"]
    path.write_text("second")
    follower.poll_twice()
    assert follower.loaded == ["first", "second"]
    assert not follower.refused[-1]


def test_a_file_that_is_gone_changes_nothing(path: Path) -> None:
    follower = Follower(path)
    path.unlink()
    follower.poll_twice()
    assert follower.refused[-1]

    path.write_text("first")
    follower.poll_twice()

    assert follower.loaded == ["first"]
    assert not follower.refused[-1]


def test_links_that_are_exchanged_as_in_a_secret_are_a_change(tmp_path: Path) -> None:
    for at in ("..1", "..2"):
        (tmp_path / at).mkdir()
        (tmp_path / at / "file").write_text(at)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "file").symlink_to("..data/file")
    follower = Follower(tmp_path / "file")

    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    follower.poll_twice()

    assert follower.loaded == ["..1", "..2"]


def test_a_change_of_any_of_the_files_counts(tmp_path: Path, path: Path) -> None:
    (tmp_path / "other").write_text("")
    follower = Follower(path, tmp_path / "other")

    (tmp_path / "other").write_text("new")
    follower.poll_twice()

    assert follower.loaded == ["first", "first"]


def test_a_bad_file_at_the_start_is_an_error(path: Path) -> None:
    path.write_text("bad")
    with pytest.raises(ValueError, match="is bad"):
        Follower(path)
    path.write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(ValueError, match="more than 1,048,576 bytes"):
        Follower(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        Follower(path)


@pytest.mark.parametrize("content", ["bad", None])
def test_a_process_that_starts_beside_unusable_files_uses_the_content_it_was_given(
    path: Path, content: str | None
) -> None:
    path.unlink()
    if content is not None:
        path.write_text(content)
    used: list[str] = []
    refused: list[bool] = []

    def load() -> None:
        text = path.read_text()
        if text == "bad":
            raise ValueError("it is bad")
        used.append(text)

    files = FollowedFiles("the file", [path], load, refused.append, lambda: used.append("given"))
    assert (used, refused) == (["given"], [True])

    path.write_text("good")
    files.poll()
    files.poll()
    assert (used, refused[-1]) == (["given", "good"], False)
