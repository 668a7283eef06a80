"""The drift report of a set: shards are joined, near-duplicates counted once, pages whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service.bundle.store import Bundle, open_bundle
from tidegate.service.bundle_reference import drift_reference
from tidegate.service.cli import main
from tidegate.service.drift.duplicates import fingerprint
from tidegate.service.errors import JobRefused
from tidegate.service.offline.drift.notes import Noted, Picture, small_jpeg
from tidegate.service.offline.drift.page import write_report
from tidegate.service.offline.drift.records import Collector, Notes, joined, read, written
from tidegate.service.offline.drift.report import build
from tidegate.service.types import Pixels

IMAGES = 240


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a reference of brightness and confidence."""

    def with_reference(fields: dict[str, Any]) -> None:
        even = {"edges": (0.25, 0.5, 0.75), "counts": (100, 100, 100, 100)}
        fields["reference"]["histograms"] = {"brightness": even, "confidence": even}

    return open_bundle(put(tmp_path_factory.mktemp("tiny"), sound_files(), with_reference))


def noted(bundle: Bundle, number: int, dark: bool = False, copy_of: int | None = None) -> Noted:
    """A note of an image whose values depend on its number."""
    rng = np.random.default_rng([number if copy_of is None else copy_of])
    pixels = Pixels(rng.integers(0, 256, (32, 32, 3), np.uint8))
    p_value = float(rng.integers(1, 200)) / 200
    return Noted(
        fingerprint(pixels),
        int(rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])),
        float(rng.random()),
        p_value,
        "reject" if p_value <= 0.01 else "accept",
        {"brightness": float(rng.random()) * (0.3 if dark else 1.0)},
        None,
        Picture((p_value, 0.0, number), small_jpeg(pixels, bundle)),
    )


def notes_of(
    bundle: Bundle, images: Sequence[Noted], path: Path, shard: tuple[int, int] = (1, 1)
) -> Notes:
    """The notes of a job that wrote two parts."""
    collector, files = Collector(drift_reference(bundle)), list[Path]()
    for part in np.array_split(np.arange(len(images)), 2):
        for index in part.tolist():
            one = images[index]
            assert one.picture is not None
            collector.add(index, f"image-{one.picture.rank[2]}.jpg", one)
        files.append(path / f"part-{len(files)}")
        files[-1].write_bytes(collector.part())
    facts = {"digest": bundle.digest, "shard": shard, "outcomes": {"accept": len(images)}}
    whole = path / f"{shard[0]}.drift.npz"
    whole.write_bytes(written(joined([read(file) for file in files], facts)))
    return read(whole)


def drawn(
    bundle: Bundle, numbers: Iterable[int] = range(IMAGES), dark: bool = False
) -> list[Noted]:
    return [noted(bundle, number, dark) for number in numbers]


def test_shards_together_are_the_whole_set(bundle: Bundle, tmp_path: Path) -> None:
    images = drawn(bundle)
    whole = build(bundle, [notes_of(bundle, images, tmp_path)])
    shards = [notes_of(bundle, images[shard::3], tmp_path, (shard + 1, 3)) for shard in range(3)]

    merged = build(bundle, shards[::-1])

    assert merged.images == whole.images == IMAGES
    assert merged.missing == ()
    assert merged.effects == whole.effects
    assert merged.found.rejected == whole.found.rejected
    np.testing.assert_array_equal(merged.found.classes, whole.found.classes)
    np.testing.assert_array_equal(merged.found.p_values, whole.found.p_values)
    assert [one.path for one in merged.shown[:5]] == [one.path for one in whole.shown[:5]]


def test_a_missing_shard_is_named(bundle: Bundle, tmp_path: Path) -> None:
    notes_of(bundle, drawn(bundle), tmp_path, (2, 3))
    out = tmp_path / "report.json"

    words = [tmp_path / "2.drift.npz", "--bundle", bundle.path, "--out", out]
    assert main(["drift-report", *map(str, words)]) == 0

    report = json.loads(out.read_text("utf-8"))
    assert report["shards"] == {"of": 3, "missing": [1, 3]}
    assert "Of 3 shards these are missing: 1, 3." in report["notices"]


def test_notes_that_do_not_fit_together_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    once = notes_of(bundle, drawn(bundle, range(9)), tmp_path, (1, 2))

    with pytest.raises(JobRefused, match="once"):
        build(bundle, [once, once])
    with pytest.raises(JobRefused, match="are of the bundle"):
        build(bundle, [replace(once, facts={**once.facts, "digest": "0" * 64})])


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no archive", b"\x93NUMPY"])
def test_a_file_that_has_no_notes_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(content)

    with pytest.raises(JobRefused, match=r"x\.npz is not the notes of a set"):
        read(tmp_path / "x.npz")


def test_near_duplicates_are_counted_once(bundle: Bundle, tmp_path: Path) -> None:
    images = drawn(bundle, range(60))
    copies = [noted(bundle, 1_000 + i, copy_of=7) for i in range(200)]

    drift = build(bundle, [notes_of(bundle, [*images, *copies], tmp_path)])

    assert (drift.images, drift.near_duplicates) == (260, 200)
    assert drift.found.images == 60
    assert len({one.key for one in drift.shown}) == len(drift.shown)


def test_images_in_runs_are_noticed_across_shards(bundle: Bundle, tmp_path: Path) -> None:
    runs = []
    for number in range(IMAGES):
        one = noted(bundle, number)
        first = noted(bundle, number // 12)
        runs.append(one._replace(p_value=first.p_value, class_id=first.class_id))
    shards = [notes_of(bundle, runs[shard::2], tmp_path, (shard + 1, 2)) for shard in range(2)]

    assert build(bundle, shards).effects.classes > 5


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_says_what_differs_and_loads_nothing(
    bundle: Bundle, tmp_path: Path, dark: bool
) -> None:
    out = tmp_path / "report.html"

    said = write_report(out, bundle, [notes_of(bundle, drawn(bundle, dark=dark), tmp_path)])

    page = out.read_text("utf-8")
    assert ("brightness" in said) == dark
    assert ("The images are darker: the median brightness is" in page) == dark
    assert said in page
    assert page.count("data:image/jpeg;base64,") == 24
    assert "default-src 'none'" in page
    assert not re.search(r"<script|https?:|src=\"(?!data:)", page)


def test_paths_and_labels_are_text_in_the_page(bundle: Bundle, tmp_path: Path) -> None:
    notes = notes_of(bundle, drawn(bundle, range(9)), tmp_path)
    hostile = replace(notes.shown[0], path="<script>alert(1)</script>.jpg")

    write_report(tmp_path / "r.html", bundle, [replace(notes, shown=(hostile,))])

    page = (tmp_path / "r.html").read_text("utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_report_has_one_of_two_formats(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(JobRefused, match=r"\.html or \.json"):
        write_report(tmp_path / "r.pdf", bundle, [])


def test_a_set_without_answers_has_a_report(bundle: Bundle, tmp_path: Path) -> None:
    said = write_report(tmp_path / "r.html", bundle, [notes_of(bundle, [], tmp_path)])

    assert said == "There is no image with an answer."
