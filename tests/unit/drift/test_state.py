"""A state file that cannot be used is not restored, but the service starts."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.damaged import damaged
from tests.unit.drift.test_monitor import feed, reference
from tidegate.service.drift import state
from tidegate.service.drift.monitor import Monitor
from tidegate.service.errors import SettingsInvalid


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "drift"


@pytest.fixture
def saved(path: Path) -> bytes:
    monitor = Monitor(reference())
    feed(monitor, 600)
    state.save(path, monitor.state(), "d1")
    return path.read_bytes()


def test_a_saved_state_is_restored(path: Path, saved: bytes) -> None:
    monitor = Monitor(reference())

    assert state.load(path, monitor, "d1") == ""
    assert monitor.report().images == 600


@pytest.mark.lengthy
def test_a_damaged_file_gives_a_reason_and_never_an_exception(path: Path, saved: bytes) -> None:
    unread = 0
    for content in damaged(saved, 800):
        path.write_bytes(content)
        monitor = Monitor(reference())

        why = state.load(path, monitor, "d1")

        unread += bool(why)
        assert monitor.report().images == (0 if why else 600)
    assert unread > 400


def changed(saved: bytes, **arrays: Any) -> bytes:
    with np.load(io.BytesIO(saved)) as before:
        content = io.BytesIO()
        np.savez(content, **{**before, **arrays})
    return content.getvalue()


@pytest.mark.parametrize(
    "arrays",
    [
        {"totals": np.array([np.inf] * 8)},
        {"totals": np.array([-1, -2, 0, 0, 0, 0, 0, 0])},
        {"totals": np.array([1, 2, 0, 0, 0, 0, 0, 0])},
        {"totals": np.array([2, 1, 2, 0, 0, 0, 0, 0])},
        {"totals": np.array([2**62, 1, 0, 0, 0, 1, 0, 0])},
        {"confidence": np.array(7.0)},
        {"confidence": np.array(np.nan)},
        {"sign_means": np.full(8, 2.0)},
        {"class_days.recent": np.full((37, 10), -1, np.int32)},
        {"rejected_days.day": np.full(28, -2)},
        {"p_dependence.sums": np.full((9, 1), -1.0)},
        {"r.ood-rate": np.full(6, np.nan)},
        {"recent.p-value": np.full((20, 10), 2**62)},
        {"recent.p-value": np.full((20, 10), -1)},
        {"features.counts": np.full(20, 10**6)},
        {"alarm.ood-rate": np.array([None] * 7, object)},
        {"digest": np.array(["d1", "d1"])},
    ],
)
def test_impossible_numbers_are_rejected(path: Path, saved: bytes, arrays: dict[str, Any]) -> None:
    path.write_bytes(changed(saved, **arrays))
    monitor = Monitor(reference())

    assert state.load(path, monitor, "d1")
    assert monitor.report().images == 0


@pytest.mark.parametrize("older", ["tidegate-drift/1", "tidegate-drift/2"])
def test_a_state_of_an_older_version_is_renamed_with_its_reason(
    path: Path, saved: bytes, older: str
) -> None:
    path.write_bytes(changed(saved, format=older))

    why = state.load(path, Monitor(reference()), "d1")

    assert "older version" in why
    assert state.rename_unusable(path, why).name.startswith("drift.older-")


def test_a_file_of_gigabytes_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 36)  # a hole

    assert "larger than" in state.load(path, Monitor(reference()), "d1")


def test_an_unusable_file_is_renamed_and_only_the_newest_few_are_kept(path: Path) -> None:
    others = [path.with_name(name) for name in ("drift.damaged-notes", "drift.bak")]
    for other in others:
        other.write_text("not ours")

    for index in range(5):
        path.write_text(str(index))
        state.rename_unusable(path, "it cannot be read")

    kept = sorted(set(path.parent.iterdir()) - set(others))
    assert sorted(file.read_text() for file in kept) == ["2", "3", "4"]
    assert all(other.exists() for other in others)
    assert not path.exists()


@pytest.mark.parametrize(
    "prepare",
    [
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.parent.rmdir(),
        lambda path: (path.parent.rmdir(), path.parent.write_text("a file")),
    ],
    ids=["a folder", "a pipe", "no folder", "a file as the folder"],
)
def test_a_path_that_cannot_be_written_is_rejected(
    tmp_path: Path, prepare: Callable[[Path], object]
) -> None:
    path = tmp_path / "folder" / "drift"
    path.parent.mkdir()
    prepare(path)

    with pytest.raises(SettingsInvalid, match=r"TIDEGATE_DRIFT_STATE=.*: cannot save the state"):
        state.check_path(path)


def test_checking_a_writable_path_changes_nothing(path: Path, saved: bytes) -> None:
    state.check_path(path)

    assert path.read_bytes() == saved
    assert list(path.parent.iterdir()) == [path]
