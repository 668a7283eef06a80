"""What happens to the processes that classify, and to images that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.offline.fakes import FakePredictor, FakeThatIsInterrupted
from tidegate.service.offline.rows import Columns, Row
from tidegate.service.offline.workers import Entry, Work, Workers
from tidegate.service.offline.writers import JsonLines

pytestmark = pytest.mark.process


def row_of(entry: Entry, predictor: FakePredictor) -> Row:
    work = Work(predictor, Columns(("energy",)), 3)  # type: ignore[arg-type]  # a fake
    with Workers(work, 1) as workers:
        [(row, _)] = workers.classified([entry])
    return row


def test_ctrl_c_does_not_reach_a_process_that_is_just_starting() -> None:
    assert row_of((0, "a.jpg", b"fine"), FakeThatIsInterrupted())["error"] == "fine"


def test_an_image_that_hangs_is_a_row_and_the_others_are_answered() -> None:
    limit_s = 2.0  # three times: with the other image, with it again, and alone
    work = Work(FakePredictor(), Columns(("energy",)), 3, timeout_s=limit_s)  # type: ignore[arg-type]

    with Workers(work, 1) as workers:
        hung, fine = workers.classified([(0, "a.jpg", b"hang"), (1, "b.jpg", b"fine")])

    assert (hung.row["error"], fine.row["error"]) == ("deadline-missed", "fine")
    assert hung.row["error_detail"] == "This image took more than 2 s."


@pytest.mark.parametrize("is_file", [True, False])
def test_an_image_beyond_the_limit_has_no_sha256_of_its_first_bytes(
    tmp_path: Path, *, is_file: bool
) -> None:
    most = FakePredictor.max_image_bytes
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(2 * most))
    member = bytes(most + 1)  # of an archive, a table or a bucket no more is read

    row = row_of((0, "a.jpg", path if is_file else member), FakePredictor())

    assert (row["error"], row["sha256"]) == ("upload-too-large", None)
    assert row["error_detail"] == "The image has more than 100 bytes, the limit."


def test_a_name_that_is_no_text_is_escaped_in_its_error_too(tmp_path: Path) -> None:
    pipe = tmp_path / os.fsdecode(b"\xff.jpg")
    os.mkfifo(pipe)

    row = row_of((0, str(pipe), pipe), FakePredictor())

    assert "\\xff.jpg is not a regular file" in row["error_detail"]
    assert JsonLines().part([row])
