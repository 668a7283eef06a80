"""A job's parts: none is of another job, and the result is on disk before they are removed."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.service.errors import JobRefused
from tidegate.service.offline.job import Job
from tidegate.service.offline.rows import Row
from tidegate.service.offline.sources import Item
from tidegate.service.offline.writers import JsonLines


def begun(out: Path, bundle: str = "d1", **options: bool) -> Job:
    job = Job(out, JsonLines(), {"bundle": bundle}, 1)
    job.begin(**{"resume": True, "replace": False} | options)
    return job


def row(path: str) -> Row:
    return {"path": path, "decision": "accept", "error": None}


def test_parts_whose_job_is_unknown_are_of_none(tmp_path: Path) -> None:
    """A kill while the folder is removed may leave them, and the next job has fewer at first."""
    old = begun(tmp_path / "r.jsonl", "d1")
    for name in ("a", "b"):
        old.write([row(name)])
    (old.folder / "job.json").unlink()

    begun(tmp_path / "r.jsonl", "d2").write([row("a")])

    assert len(begun(tmp_path / "r.jsonl", "d2").parts) == 1


def test_a_result_is_complete_while_its_parts_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begun(tmp_path / "r.jsonl")
    job.write([row("a")])
    with monkeypatch.context() as killed:
        killed.setattr("shutil.rmtree", lambda folder: None)
        job.finish({"job": job.identity, "images": 1, "outcomes": {"accept": 1}}, {})

    assert job.folder.exists()
    assert Job(job.out, JsonLines(), {"bundle": "d1"}, 1).is_finished()


def test_the_result_is_on_disk_before_its_parts_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begun(tmp_path / "r.jsonl")
    job.write([row("a")])
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.fstat(number).st_ino))

    job.finish({}, {})

    assert job.out.stat().st_ino in flushed


class Image:
    """What an item of a table keeps in memory."""


def test_images_that_are_skipped_are_not_kept_in_memory(tmp_path: Path) -> None:
    alive: weakref.WeakSet[Image] = weakref.WeakSet()
    most = 0

    def item(name: str) -> Item:
        image = Image()
        alive.add(image)
        return Item(name, lambda most, image=image: b"")  # type: ignore[misc]  # keeps it

    def items() -> Iterator[Item]:
        nonlocal most
        for number in range(20):
            yield item(str(number))
            most = max(most, len(alive))

    job = Job(tmp_path / "r.jsonl", JsonLines(), {}, 20)
    job.begin(resume=True, replace=False)
    job.write([row(str(number)) for number in range(20)])

    assert list(job.remaining(items())) == []
    assert most <= 2


def test_a_folder_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").mkdir()

    with pytest.raises(JobRefused, match="is a folder"):
        begun(tmp_path / "r.jsonl", replace=True)


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"null",
    pytest.param(b"[" * 100_000, id="deep"),
    b'{"a": "\xff"}',
    b'[1, 2, "b", {}]',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_job_file_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    (begun(tmp_path / "r.jsonl").folder / "job.json").write_bytes(content)

    with pytest.raises(JobRefused, match=r"job.json is damaged: begin again with --replace"):
        begun(tmp_path / "r.jsonl")


@pytest.mark.parametrize("content", DAMAGED)
def test_a_part_with_damaged_facts_is_made_again(tmp_path: Path, content: bytes) -> None:
    job = begun(tmp_path / "r.jsonl")
    for name in ("a", "b", "c"):
        job.write([row(name)])
    (job.folder / "part-000001.json").write_bytes(content)

    assert [part.first for part in begun(tmp_path / "r.jsonl").parts] == ["a"]


@pytest.mark.parametrize(
    "summary", [*DAMAGED, b'{"job": {"bundle": "d1", "images in a part": 1}, "images": "many"}']
)
def test_a_damaged_summary_is_of_no_finished_job(tmp_path: Path, summary: bytes) -> None:
    (tmp_path / "r.jsonl").write_bytes(b"")
    (tmp_path / "r.jsonl.summary.json").write_bytes(summary)

    assert not Job(tmp_path / "r.jsonl", JsonLines(), {"bundle": "d1"}, 1).is_finished()
