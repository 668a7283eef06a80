"""Which images are kept, within which limits, and what feedback adds."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tidegate.service.errors import SettingsInvalid
from tidegate.service.review import folder
from tidegate.service.review.answered import Answered
from tidegate.service.review.folder import Entry, ReviewFolder
from tidegate.service.review.image_store import ImageStore, ReviewConfig

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


@pytest.fixture
def deaths() -> list[str]:
    return []


Make = Callable[..., ImageStore]


@pytest.fixture
def make(
    tmp_path: Path, clock: FakeClock, outcomes: Counter[str], deaths: list[str]
) -> Iterator[Make]:
    made: list[ImageStore] = []

    def start(**changes: Any) -> ImageStore:
        config = replace(ReviewConfig(tmp_path / "kept", 10_000_000, 1000.0, 0.0), **changes)
        made.append(
            ImageStore(config, lambda it: outcomes.update([it]), clock, on_death=deaths.append)
        )
        return made[-1]

    yield start
    for started in made:
        started.close(10)


def offer(kept: ImageStore, answered: Answered = ANSWER, image: bytes = PNG) -> None:
    """Offer an image and wait until the thread has handled it."""
    kept.offer(image, answered)
    done = threading.Event()
    kept._jobs.put(done.set)
    assert done.wait(30)


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


def test_accepted_images_are_sampled(make: Make, tmp_path: Path) -> None:
    kept = make(accepted_share=0.5)
    for index in range(100):
        kept.offer(PNG, ANSWER._replace(request_id=f"r{index}", decision="accept"))
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


def test_the_oldest_images_are_deleted_also_those_of_an_earlier_process(
    make: Make, tmp_path: Path
) -> None:
    for start in (0, 10):
        kept = make(max_bytes=50_000)
        for index in range(start, start + 10):
            offer(kept, ANSWER._replace(request_id=f"r{index}"))
        kept.close(10)

    files = list(tmp_path.glob("kept/*/*.*"))
    assert {said["request_id"] for said in sidecars(tmp_path)} <= {f"r{i}" for i in range(10, 20)}
    assert len(files) == 2 * len(sidecars(tmp_path)) > 0


def test_a_busy_disk_does_not_block_requests(
    make: Make, outcomes: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = threading.Event()
    write = ReviewFolder.write

    def slow(folder: ReviewFolder, entry: Entry, content: bytes, image: bytes) -> None:
        may_write.wait(30)
        write(folder, entry, content, image)

    kept = make()
    monkeypatch.setattr(ReviewFolder, "write", slow)
    for index in range(50):
        kept.offer(PNG, ANSWER._replace(request_id=f"r{index}"))
    may_write.set()
    kept.close(30)

    assert outcomes["disk-busy"] >= 40
    assert outcomes["stored"] == 50 - outcomes["disk-busy"]


def test_a_disk_error_is_counted_and_the_next_image_is_tried(
    make: Make, outcomes: Counter[str], tmp_path: Path
) -> None:
    kept = make(max_bytes=30_000)
    kept.offer(PNG * 100, ANSWER)  # exceeds the limit of the whole folder
    kept.offer(PNG[:50], ANSWER)
    kept.close(10)

    assert outcomes == {"failed": 1, "stored": 1}


def test_a_folder_that_cannot_be_created_stops_the_start(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(SettingsInvalid, match="TIDEGATE_REVIEW_DIR="):
        make(root=tmp_path / "file" / "below")


def test_a_disk_that_hangs_blocks_closing_no_longer_than_its_timeout(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    recovers = threading.Event()
    monkeypatch.setattr(ReviewFolder, "write", lambda *_: recovers.wait(60))
    kept = make()
    for _ in range(20):
        kept.offer(PNG, ANSWER)

    begun = time.monotonic()
    kept.close(0.2)
    took = time.monotonic() - begun
    recovers.set()

    assert took < 20


def test_the_death_of_the_thread_is_reported(
    make: Make, deaths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise RuntimeError("a bug")

    kept = make()
    monkeypatch.setattr(ReviewFolder, "write", die)
    kept.offer(PNG, ANSWER)
    kept._thread.join(30)

    assert deaths == ["thread review ended unexpectedly: RuntimeError: a bug"]


def test_a_full_disk_and_its_recovery_are_logged_once(
    make: Make,
    outcomes: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    full = threading.Event()
    write = folder._put

    def put(name: str, content: bytes, day: int, spare: int = 0) -> int:
        if full.is_set() and name.endswith(".png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(name, content, day, spare)

    monkeypatch.setattr(folder, "_put", put)
    kept = make()
    for state in (False, True, False):
        (full.set if state else full.clear)()
        for index in range(4):
            offer(kept, ANSWER._replace(request_id=f"{state}{index}"))
    kept.close(10)

    assert outcomes == {"stored": 8, "failed": 4}
    assert [record.getMessage() for record in caplog.records] == [
        "images for review are not kept: No space left on device",
        "images for review are kept again",
    ]
    assert kept._folder.used_bytes > 0


def test_a_full_disk_deletes_at_most_the_space_of_one_image(
    make: Make, outcomes: Counter[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = make()
    for index in range(10):
        offer(kept, ANSWER._replace(request_id=f"r{index}"))

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder, "_put", full)
    for index in range(10):
        offer(kept, ANSWER._replace(request_id=f"r{index}"))
    kept.close(10)

    assert outcomes == {"stored": 10, "failed": 10}
    assert len(sidecars(tmp_path)) >= 8


def test_the_service_starts_on_a_full_disk(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "kept").mkdir()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "touch", full)

    make()
