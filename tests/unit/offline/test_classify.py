"""`tidegate classify`: a row for each image in order, from every source, whole or resumed."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tests.server import DEMO_BUNDLE, PHOTOS
from tests.unit.offline.fakes import FakePredictor, FakeThatNeverStarts
from tidegate.service.cli import main
from tidegate.service.errors import EngineUnavailable, JobRefused, SourceUnreadable
from tidegate.service.offline.answers import Problem
from tidegate.service.offline.job import Job
from tidegate.service.offline.read_ahead import entries
from tidegate.service.offline.rows import Columns
from tidegate.service.offline.run import Options, part_images, shared
from tidegate.service.offline.sources import items
from tidegate.service.offline.workers import Work, Workers
from tidegate.service.offline.writers import Csv, JsonLines, Parquet

pytestmark = pytest.mark.process
PHOTO = sorted(PHOTOS.glob("*.jpg"))[0].read_bytes()
COLUMNS = Columns(("energy",))


def work(predictor: FakePredictor) -> Work:
    return Work(predictor, COLUMNS, 3)  # type: ignore[arg-type]  # a fake


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with photographs, a broken one and a text."""
    folder = tmp_path / "images"
    (folder / "b").mkdir(parents=True)
    for name in ("a.jpg", "b/c.jpg", "d.JPG"):
        (folder / name).write_bytes(PHOTO)
    (folder / "e.png").write_bytes(PHOTO[:500])
    (folder / "notes.txt").write_text("no image")
    return folder


def classify(*words: object) -> int:
    return main(["classify", "--bundle", str(DEMO_BUNDLE), "--workers", "1", *map(str, words)])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_becomes_a_row_for_each_image_in_order(images: Path, tmp_path: Path) -> None:
    options = ("--features", "--top-k", 2, "--fail-on-error", "--drift", tmp_path / "drift.json")

    assert classify(images, "--out", tmp_path / "r.jsonl", *options) == 1  # one is broken

    rows = rows_of(tmp_path / "r.jsonl")
    assert [Path(row["path"]).name for row in rows] == ["a.jpg", "d.JPG", "e.png", "c.jpg"]
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    assert [row["error"] for row in rows] == [None, None, "undecodable-image", None]
    assert len(rows[0]["top_k"]) == 2
    assert rows[0]["label"] == rows[0]["top_k"][0]["label"]
    assert len(rows[0]["features"]) > 100
    summary = json.loads((tmp_path / "r.jsonl.summary.json").read_text())
    assert summary["images"] == 4
    assert summary["outcomes"]["undecodable-image"] == 1
    assert len(summary["digest"]) == 64
    assert not list(tmp_path.glob(".r.jsonl*"))
    drift = json.loads((tmp_path / "drift.json").read_text())
    assert (drift["images"], drift["near_duplicates"]) == (3, 2)  # the same photograph
    assert drift["outcomes"] == summary["outcomes"]
    assert [Path(one["path"]).name for one in drift["unusual"]] == ["a.jpg"]
    assert (tmp_path / "r.jsonl.drift.npz").exists()


def names(*sources: object) -> list[str]:
    found = items([str(source) for source in sources], None, "image")
    return [item.name for item in found]


def test_archives_and_lists_are_sources(images: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-000.tar", "w") as archive:
        archive.add(images / "a.jpg", "0001.jpg")
        archive.add(images / "notes.txt", "0001.txt")
        archive.add(images / "d.JPG", "0002.jpg")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(images / "a.jpg", "x/a.jpg")
    listing = tmp_path / "list.txt"
    listing.write_text(f"{images / 'd.JPG'}\n\n{tmp_path / 'more.zip'}\n")

    found = list(items([str(tmp_path / "shard-000.tar")], str(listing), "image"))

    tar, jpg, zipped = (tmp_path / name for name in ("shard-000.tar", "images/d.JPG", "more.zip"))
    assert [item.name for item in found] == [
        f"{tar}!0001.jpg", f"{tar}!0002.jpg", f"{jpg}", f"{zipped}!x/a.jpg"
    ]  # fmt: skip


def test_members_are_read_up_to_a_bound(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("huge.png", bytes(50 << 20))
    found = items([str(tmp_path / "bomb.zip")], None, "image")
    item = next(found)

    assert not isinstance(item.content, Path)
    assert len(item.content(1000)) == 1000


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"no archive"), "cannot be read"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, make: Any, reason: str) -> None:
    make(tmp_path / "x.tar")

    with pytest.raises(SourceUnreadable, match=reason) as raised:
        names(tmp_path / "x.tar")
    assert "x.tar" in str(raised.value)


def test_a_damaged_member_is_a_row_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", b"first" * 9)
        archive.writestr("b.jpg", b"second")
    path.write_bytes(path.read_bytes().replace(b"firstfirst", b"firstXirst", 1))

    found = list(entries(enumerate(items([str(path)], None, "image")), 100))

    assert [content for *_, content in found][1] == b"second"
    assert isinstance(found[0][2], Problem)
    assert "CRC" in found[0][2].detail


def test_shards_share_out_the_images(images: Path) -> None:
    found: list[str] = []
    for part in (1, 2, 3):
        options = Options((str(images),), DEMO_BUNDLE, Path("r.jsonl"), shard=(part, 3))
        found += [item.name for item in shared(options)]

    assert sorted(found) == sorted(names(images))


def test_csv_has_lists_as_json() -> None:
    columns = Columns(("energy",), all_probabilities=True)
    name = 'a,"b"\rc.jpg'
    row = dict.fromkeys(columns.names) | {"path": name, "probabilities": [0.5, 0.5]}

    text = Csv(columns).part([row]).decode()

    [read] = csv.DictReader(io.StringIO(text, newline=""), columns.names)
    assert read["path"] == name
    assert json.loads(read["probabilities"]) == [0.5, 0.5]
    assert read["decision"] == ""


@pytest.mark.parametrize(
    ("chosen", "images"),
    [({}, 10_000), ({"features": True}, 1000), ({"features": True, "part_images": 50}, 50)],
)
def test_parts_with_long_rows_have_fewer(chosen: dict[str, Any], images: int) -> None:
    assert part_images(Options(("images",), DEMO_BUNDLE, Path("r.jsonl"), **chosen)) == images


# ── parts and resuming ────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_killed_job_goes_on_after_its_whole_parts(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:03}.jpg").write_bytes(PHOTO)
    command = [sys.executable, "-m", "tidegate.service", "classify", str(folder), "--bundle"]
    command += [str(DEMO_BUNDLE), "--out", str(tmp_path / "r.jsonl"), "--part-images", "4"]
    command += ["--workers", "1", "--resume"]
    kills = 0
    while True:
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            _await_new_part(tmp_path, process)
            if process.poll() is None and kills < 2:
                process.send_signal(signal.SIGKILL)
                kills += 1
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL

    rows = rows_of(tmp_path / "r.jsonl")
    assert kills
    assert [row["index"] for row in rows] == list(range(40))
    assert len({row["path"] for row in rows}) == 40


def _await_new_part(folder: Path, process: subprocess.Popen[bytes]) -> None:
    parts = folder / ".r.jsonl.parts"
    before = len(list(parts.glob("part-*.json")))
    while process.poll() is None and len(list(parts.glob("part-*.json"))) <= before:
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue


@pytest.fixture
def job(tmp_path: Path) -> Job:
    started = Job(tmp_path / "r.jsonl", JsonLines(), {"bundle": "d1"}, 2)
    started.begin(resume=False, replace=False)
    started.write([{"path": "a", "decision": "accept", "error": None}])
    return started


@pytest.mark.parametrize(
    ("identity", "options", "reason"),
    [
        ({"bundle": "d1"}, {"resume": False, "replace": False}, "--resume"),
        ({"bundle": "d2"}, {"resume": True, "replace": False}, "another bundle"),
    ],
)
def test_parts_of_another_job_are_never_mixed(
    job: Job, identity: dict[str, str], options: dict[str, bool], reason: str
) -> None:
    again = Job(job.out, JsonLines(), identity, 2)

    with pytest.raises(JobRefused, match=reason):
        again.begin(**options)


def test_other_images_are_noticed_when_a_job_goes_on(job: Job, tmp_path: Path) -> None:
    again = Job(job.out, JsonLines(), {"bundle": "d1"}, 2)
    again.begin(resume=True, replace=False)
    (tmp_path / "b.jpg").write_bytes(b"")

    with pytest.raises(JobRefused, match="not those of the unfinished job"):
        list(again.remaining(items([str(tmp_path / "b.jpg")], None, "image")))


def test_a_job_that_was_killed_while_it_finished_goes_on(job: Job) -> None:
    job.out.write_text("joined already")

    again = Job(job.out, JsonLines(), {"bundle": "d1"}, 2)
    again.begin(resume=True, replace=False)

    assert not again.is_finished()
    assert len(again.parts) == 1


def test_a_finished_job_is_known_again(job: Job) -> None:
    job.finish({"job": job.identity, "images": 1, "outcomes": {"accept": 1}}, {})

    again = Job(job.out, JsonLines(), {"bundle": "d1"}, 2)
    assert again.is_finished()
    assert again.outcomes == {"accept": 1}
    assert not Job(job.out, JsonLines(), {"bundle": "d2"}, 2).is_finished()


def test_a_result_is_not_overwritten_unasked(job: Job) -> None:
    job.finish({}, {})

    with pytest.raises(JobRefused, match="--replace"):
        Job(job.out, JsonLines(), {}, 2).begin(resume=False, replace=False)


# ── processes that die ────────────────────────────────────────────────────────────────────────


def test_images_that_kill_their_process_are_the_only_ones_without_an_answer() -> None:
    killers = (32, 33)  # next to each other, as copies of one file are
    words = [b"kill" if number in killers else b"fine" for number in range(60)]

    with Workers(work(FakePredictor()), 2) as workers:
        rows = [one.row for one in workers.classified((i, str(i), w) for i, w in enumerate(words))]

    assert [row["index"] for row in rows] == list(range(60))
    assert [row["error"] for row in rows if row["index"] not in killers] == ["fine"] * 58
    assert [rows[index]["error"] for index in killers] == ["engine-failed"] * 2


def test_processes_that_cannot_start_end_the_job() -> None:
    with (
        Workers(work(FakeThatNeverStarts()), 1) as workers,
        pytest.raises(EngineUnavailable, match="do not start"),
    ):
        list(workers.classified((i, str(i), b"x") for i in range(50)))


def test_a_file_that_is_too_long_or_gone_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "long.jpg").write_bytes(bytes(101))
    paths = [tmp_path / "long.jpg", tmp_path / "gone.jpg"]

    with Workers(work(FakePredictor()), 1) as workers:
        rows = [one.row for one in workers.classified((i, str(i), p) for i, p in enumerate(paths))]

    assert [row["error"] for row in rows] == ["upload-too-large", "unreadable"]
    assert all(row["error_detail"] for row in rows)


def test_parquet_has_types_and_says_which_bundle_answered(tmp_path: Path) -> None:
    columns = Columns(("energy",), features=True)
    gone = Problem("unreadable", "", 404, "gone")
    rows = [
        columns.row(0, "a.jpg", b"", gone),
        columns.row(1, "b\udcff.jpg", b"", gone) | {"features": [0.5]},
    ]
    writer = Parquet(columns)
    parts = [tmp_path / f"{number}.parquet" for number in range(2)]
    for part, row in zip(parts, rows, strict=True):
        part.write_bytes(writer.part([row]))

    writer.join(parts, tmp_path / "r.parquet", {"tidegate.digest": "d1"})

    made = parquet.read_table(tmp_path / "r.parquet")
    assert made.column("path").to_pylist() == ["a.jpg", "b\\xff.jpg"]
    assert made.column("error").to_pylist() == ["unreadable"] * 2
    assert made.column("features").to_pylist() == [None, [0.5]]
    assert made.schema.metadata[b"tidegate.digest"] == b"d1"


@pytest.mark.parametrize("column", ["image", "other"])
def test_a_column_of_a_table_is_a_source(tmp_path: Path, column: str) -> None:
    values = [PHOTO, None] if column == "image" else [{"bytes": PHOTO, "path": "a.jpg"}, None]
    parquet.write_table(pyarrow.table({column: values}), tmp_path / "in.parquet")

    found = items([str(tmp_path / "in.parquet")], None, column)

    read = [(item.name, item.content(10)) for item in found if not isinstance(item.content, Path)]
    table = tmp_path / "in.parquet"
    assert read == [(f"{table}#0", PHOTO[:10]), (f"{table}#1", b"")]


def test_a_table_without_the_column_names_those_it_has(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"jpeg": [b""]}), tmp_path / "in.parquet")

    with pytest.raises(SourceUnreadable, match=r"it has jpeg.*--column"):
        names(tmp_path / "in.parquet")
