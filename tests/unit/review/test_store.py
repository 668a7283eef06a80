"""What is kept, within which bounds, and what feedback adds to it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.errors import ReviewUnreadable, SettingsInvalid
from service.review import store
from service.review.export import export
from service.review.store import Answered, ReviewConfig, ReviewStore

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 100
ANSWER = Answered("r1", "review", 3, "tabby, cat", 0.7, 0.02, "m", "1", "d" * 64)


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def outcomes() -> Counter[str]:
    return Counter()


Make = Callable[..., ReviewStore]


@pytest.fixture
def make(tmp_path: Path, clock: FakeClock, outcomes: Counter[str]) -> Iterator[Make]:
    made: list[ReviewStore] = []

    def start(**changes: Any) -> ReviewStore:
        config = replace(ReviewConfig(tmp_path / "kept", 10_000_000, 1000.0, 0.0), **changes)
        made.append(ReviewStore(config, lambda outcome: outcomes.update([outcome]), clock))
        return made[-1]

    yield start
    for started in made:
        started.close(10)


def sidecars(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(root.glob("kept/*/*.json"))]


def test_an_image_to_review_is_kept_with_its_answer(make: Make, tmp_path: Path) -> None:
    kept = make()
    kept.offer(PNG, ANSWER)
    kept.close(10)

    (said,) = sidecars(tmp_path)
    assert (said["request_id"], said["decision"], said["class_id"]) == ("r1", "review", 3)
    (image,) = tmp_path.glob(f"kept/{said['time'][:10]}/{said['file']}")
    assert image.suffix == ".png"
    assert image.read_bytes() == PNG


def test_accepted_images_are_kept_by_lot(make: Make, tmp_path: Path) -> None:
    kept = make(accepted_share=0.5)
    for index in range(100):
        kept.offer(PNG, replace(ANSWER, request_id=f"r{index}", decision="accept"))
    kept.close(10)

    assert 0 < len(sidecars(tmp_path)) < 100


def test_no_more_are_kept_than_the_rate_allows(
    make: Make, clock: FakeClock, outcomes: Counter[str]
) -> None:
    kept = make(per_s=2.0)
    for _ in range(5):
        kept.offer(PNG, ANSWER)
    clock.now += 1.0
    kept.offer(PNG, ANSWER)
    kept.close(10)

    assert outcomes == {"stored": 3, "over-rate": 3}


def test_the_oldest_go_when_the_bytes_are_full_also_those_of_an_earlier_process(
    make: Make, tmp_path: Path
) -> None:
    for start in (0, 10):
        kept = make(max_bytes=5000)
        for index in range(start, start + 10):
            kept.offer(PNG, replace(ANSWER, request_id=f"r{index}"))
        kept.close(10)

    files = list(tmp_path.glob("kept/*/*.*"))
    assert sum(path.stat().st_size for path in files) <= 5000
    assert {said["request_id"] for said in sidecars(tmp_path)} <= {f"r{i}" for i in range(10, 20)}
    assert len(files) == 2 * len(sidecars(tmp_path)) > 0


def test_a_busy_disk_keeps_no_request_waiting(
    make: Make, outcomes: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = threading.Event()
    replace_file = store._replace

    def slow(path: Path, content: bytes) -> None:
        may_write.wait(30)
        replace_file(path, content)

    kept = make()
    monkeypatch.setattr(store, "_replace", slow)
    for index in range(50):
        kept.offer(PNG, replace(ANSWER, request_id=f"r{index}"))
    may_write.set()
    kept.close(30)

    assert outcomes["disk-busy"] >= 40
    assert outcomes["stored"] == 50 - outcomes["disk-busy"]


def test_feedback_labels_what_was_kept_and_counts_once(make: Make, tmp_path: Path) -> None:
    kept = make()
    kept.offer(PNG, ANSWER)

    assert kept.label("r1", 7) == (ANSWER, True)
    assert kept.label("r1", 8) == (ANSWER, False)
    assert kept.label("unknown", 7) is None
    kept.close(10)
    assert sidecars(tmp_path)[0]["true_class"] == 8


def test_feedback_is_taken_for_images_that_were_not_kept(make: Make) -> None:
    kept = make()
    kept.offer(PNG, replace(ANSWER, decision="accept"))

    assert kept.label("r1", 3) == (replace(ANSWER, decision="accept"), True)


def test_old_answers_are_forgotten(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_REMEMBERED", 2)
    kept = make()
    for index in range(3):
        kept.offer(PNG, replace(ANSWER, request_id=f"r{index}", decision="accept"))

    assert kept.label("r0", 1) is None
    assert kept.label("r2", 1) is not None


def test_a_disk_that_fails_is_counted_and_the_next_image_tried(
    make: Make, outcomes: Counter[str], tmp_path: Path
) -> None:
    kept = make(max_bytes=700)
    kept.offer(PNG * 10, ANSWER)  # more than may be kept in all
    kept.offer(PNG[:50], ANSWER)
    kept.close(10)

    assert outcomes == {"failed": 1, "stored": 1}


def test_a_folder_that_cannot_be_made_stops_the_start(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(SettingsInvalid, match="TIDEGATE_REVIEW_DIR="):
        make(root=tmp_path / "file" / "below")


def test_an_export_is_folders_of_classes(make: Make, tmp_path: Path) -> None:
    kept = make()
    kept.offer(PNG, ANSWER)
    kept.offer(PNG, replace(ANSWER, request_id="r2"))
    kept.label("r2", 7)
    kept.close(10)

    counts = export(tmp_path / "kept", tmp_path / "out")
    again = export(tmp_path / "kept", tmp_path / "out")

    assert counts == again == {"7": 1, "unlabelled/3-tabby_ cat": 1}
    assert len(list(tmp_path.glob("out/7/*.png"))) == 1


def test_an_export_of_nothing_or_of_nonsense_says_so(tmp_path: Path) -> None:
    with pytest.raises(ReviewUnreadable, match="no kept images"):
        export(tmp_path, tmp_path / "out")

    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "x.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ReviewUnreadable, match=r"x\.json does not tell"):
        export(tmp_path, tmp_path / "out")
