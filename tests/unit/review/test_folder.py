"""Which files the store deletes, and how much disk space it uses."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from tidegate.service.review import sidecar
from tidegate.service.review.folder import Entry, ReviewFolder

DAY = "2026-01-01"


def keep(folder: ReviewFolder, number: int, size: int = 1000) -> Entry:
    entry = Entry(DAY, f"{number:024x}.png")
    fields = {"file": entry.file, "class_id": 1, "label": "one"}
    folder.write(entry, sidecar.written(fields), b"x" * size)
    return entry


def disk_use(root: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in (root, *root.rglob("*")))


def filled(root: Path, max_bytes: int, images: int = 50) -> ReviewFolder:
    folder = ReviewFolder(root, max_bytes)
    root.mkdir(exist_ok=True)
    folder.scan()
    for number in range(images):
        keep(folder, number)
    return folder


FOREIGN = {
    "of another folder": ("project/package.json", "project/package.png", "{}"),
    "without the mark": (f"{DAY}/{'a' * 24}.json", f"{DAY}/{'a' * 24}.png", "{}"),
    "of another name": (
        f"{DAY}/mine.json",
        f"{DAY}/mine.png",
        '{"format": "tidegate-review/1", "file": "mine.png", "class_id": 1, "label": ""}',
    ),
    "that name another image": (
        f"{DAY}/{'a' * 24}.json",
        f"{DAY}/{'b' * 24}.png",
        '{"format": "tidegate-review/1", "file": "%s.png", "class_id": 1, "label": ""}'
        % ("b" * 24),
    ),
}


@pytest.mark.parametrize(("side", "image", "content"), FOREIGN.values(), ids=list(FOREIGN))
def test_files_of_other_programs_are_never_deleted(
    tmp_path: Path, side: str, image: str, content: str
) -> None:
    for name, text in ((side, content), (image, "pixels")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (0, 0))  # the oldest of all

    filled(tmp_path, 60_000)

    assert (tmp_path / side).read_text() == content
    assert (tmp_path / image).read_text() == "pixels"


def test_no_link_is_followed_out_of_the_folder(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    filled(elsewhere, 1_000_000, images=3)
    before = sorted((elsewhere / DAY).iterdir())
    root = tmp_path / "kept"
    root.mkdir()
    (root / "2025-01-01").symlink_to(elsewhere / DAY)

    filled(root, 30_000)

    assert sorted((elsewhere / DAY).iterdir()) == before


def test_the_bound_holds_for_blocks_and_folders(tmp_path: Path) -> None:
    folder = filled(tmp_path / "kept", 200_000, images=200)

    assert disk_use(tmp_path / "kept") <= folder.used_bytes <= 200_000
    assert len(list(tmp_path.glob("kept/*/*.png"))) >= 20


def test_a_part_without_a_writer_is_removed_and_one_in_progress_stays(tmp_path: Path) -> None:
    (tmp_path / DAY).mkdir()
    orphan, written = (tmp_path / DAY / f".{c * 24}.png.part" for c in "ab")
    other = tmp_path / DAY / ".notes.part"
    for path in (orphan, written, other):
        path.write_bytes(b"x" * 10_000)
    folder = ReviewFolder(tmp_path, 1_000_000)

    with written.open("rb+") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        folder.scan()
        assert [orphan.exists(), written.exists(), other.exists()] == [False, True, True]
        assert folder.used_bytes >= 10_000
    folder.scan()

    assert not written.exists()
    assert other.exists()


def test_space_used_by_other_writers_is_a_disk_error(
    tmp_path: Path,
) -> None:
    part = tmp_path / DAY / f".{'a' * 24}.png.part"
    part.parent.mkdir()
    folder = ReviewFolder(tmp_path, 50_000)
    with part.open("wb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        writer.write(bytes(50_000))
        writer.flush()
        folder.scan()
        with pytest.raises(OSError, match="other processes are writing") as busy:
            keep(folder, 1)
    folder.scan()
    keep(folder, 1)

    assert busy.value.errno == errno.EBUSY
    assert len(list(tmp_path.glob("*/*.png"))) == 1


def test_files_of_an_earlier_process_are_counted(tmp_path: Path) -> None:
    before = filled(tmp_path, 1_000_000, images=10)
    after = ReviewFolder(tmp_path, 1_000_000)
    after.scan()

    assert abs(after.used_bytes - before.used_bytes) <= 4096
