"""What a folder of a training says about files that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.models.errors import BuildRefused
from tidegate.models.training.run_folder import RunFolder


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"identity": 1}',
        b'{"identity": {}, "record": {}}',
        pytest.param(b"[" * 100000, id="deep"),
    ],
)
def test_a_damaged_record_is_named_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "training.json").write_bytes(content)

    with pytest.raises(BuildRefused, match=r"training.json is damaged: give --fresh"):
        RunFolder(tmp_path, {"seed": 1}).finished()


def test_a_folder_without_a_record_has_no_finished_training(tmp_path: Path) -> None:
    assert RunFolder(tmp_path, {"seed": 1}).finished() is None
