from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.service.line_file import LineFile

PATIENCE_S = 150.0


def notice(dropped: int) -> bytes:
    return b"%d dropped\n" % dropped


def write(lines: LineFile, *texts: str) -> None:
    for text in texts:
        lines.put(text.encode() + b"\n")
    assert lines.flush(PATIENCE_S)


def test_lines_are_appended(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")

    write(LineFile(tmp_path / "log", notice), "one", "two")

    assert (tmp_path / "log").read_text() == "before\none\ntwo\n"
    assert (tmp_path / "log").stat().st_mode & 0o007 == 0o004  # as it was


def test_a_file_that_is_moved_away_is_created_again_for_its_owner_and_group(
    tmp_path: Path,
) -> None:
    lines = LineFile(tmp_path / "log", notice)
    write(lines, "one")
    (tmp_path / "log").rename(tmp_path / "log.1")

    write(lines, "two")

    assert (tmp_path / "log.1").read_text() == "one\n"
    assert (tmp_path / "log").read_text() == "two\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640


def test_a_file_that_is_truncated_starts_again(tmp_path: Path) -> None:
    lines = LineFile(tmp_path / "log", notice)
    write(lines, "one")
    (tmp_path / "log").write_text("")

    write(lines, "two")

    assert (tmp_path / "log").read_text() == "two\n"


def test_lines_that_a_full_disk_loses_are_counted(tmp_path: Path) -> None:
    counted: list[int] = []
    (tmp_path / "log").symlink_to("/dev/full")
    lines = LineFile(tmp_path / "log", notice)
    lines.report_drops_to(counted.append)

    write(lines, "one", "two")
    assert lines.dropped == sum(counted) == 2

    (tmp_path / "log").unlink()
    write(lines, "three")
    assert (tmp_path / "log").read_text() == "three\n2 dropped\n"


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LineFile(tmp_path / "folder" / "log", notice)
