"""Bounds on one sender: one listing of each folder, a bounded notification, an hourly limit."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.unit.models.retrain.world import USUAL, payload, prometheus
from tidegate.models.retrain.alerts import MAX_ALERTS, MAX_SUBJECTS, Notification
from tidegate.models.retrain.errors import AlertsRefused, AlertsTooLarge, TooManyFiled
from tidegate.models.retrain.folder import RequestFolder
from tidegate.models.retrain.prometheus import Prometheus
from tidegate.models.retrain.receiver import Receiver
from tidegate.models.retrain.samples import read_reviewed

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


def notification(*models: str, version: str = "1") -> bytes:
    alerts = [payload(model=model, version=version)["alerts"][0] for model in models]
    return json.dumps({**payload(), "groupLabels": {}, "alerts": alerts}).encode()


def names(count: int, prefix: str = "m") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


class World:
    """A receiver whose clock the test sets."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = RequestFolder(folder / "requests", 24 * HOUR)
        self.folder.open()
        self.review = folder / "review"
        (self.review / "2026-01-02").mkdir(parents=True)
        self.now, self.filed, self.url = NOW, list[Path](), url

    def takes(self, body: bytes) -> list[str]:
        receiver = Receiver(
            self.folder, Prometheus(self.url), self.review, 5, self.filed.append, lambda: self.now
        )
        return [str(entry["outcome"]) for entry in receiver.take(Notification.parse(body))]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with prometheus(USUAL) as url:
        yield World(tmp_path, url)


@pytest.mark.lengthy
def test_a_thousand_models_are_refused_whole(world: World) -> None:
    with pytest.raises(AlertsTooLarge, match=f"At most {MAX_ALERTS} alerts"):
        world.takes(notification(*names(1000)))
    with pytest.raises(AlertsTooLarge, match=f"At most {MAX_SUBJECTS} models"):
        world.takes(notification(*names(MAX_SUBJECTS + 1)))

    assert world.folder.newest() == []
    assert world.takes(notification(*names(MAX_SUBJECTS))) == ["filed"] * MAX_SUBJECTS


@pytest.mark.lengthy
def test_folders_are_read_as_often_for_many_models_as_for_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: Counter[str] = Counter()
    list_folder = os.listdir

    def spy(path: Any = ".") -> list[str]:
        listed[os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else str(path)] += 1
        return list_folder(path)

    monkeypatch.setattr(os, "listdir", spy)
    world.takes(notification("one"))
    for_one = dict(listed)
    listed.clear()
    world.takes(notification(*names(MAX_SUBJECTS - 1)))

    assert dict(listed) == for_one
    assert for_one[str(world.review / "2026-01-02")] == 1
    assert for_one[str(world.folder.path)] == 3  # before and after the evidence, and the rate


@pytest.mark.lengthy
def test_an_hour_has_a_bound_and_a_notification_over_it_is_refused_whole(world: World) -> None:
    world.takes(notification(*names(MAX_SUBJECTS - 1)))
    world.now += timedelta(minutes=10)

    with pytest.raises(TooManyFiled) as refused:
        world.takes(notification("x", "y"))
    assert refused.value.retry_after_s == 50 * 60
    assert len(world.folder.newest()) == len(world.filed) == MAX_SUBJECTS - 1
    assert world.takes(notification("x", *names(3))) == ["already-filed"] * 3 + ["filed"]

    world.now = NOW + HOUR + timedelta(seconds=1)
    assert world.takes(notification("y", "z")) == ["filed", "filed"]


def test_a_disk_that_fails_on_the_second_request_leaves_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, calls = os.link, Counter[str]()

    def failing(source: Path, target: Path) -> None:
        calls["link"] += 1
        if calls["link"] == 2:
            raise OSError(28, "No space left on device")
        link(source, target)

    monkeypatch.setattr(os, "link", failing)
    with pytest.raises(Exception, match="No space left"):
        world.takes(notification("x", "y"))

    assert world.folder.newest() == []
    assert world.filed == []


def test_names_that_look_alike_are_filed_both(world: World) -> None:
    one = json.loads(notification("a-b", version="c"))
    two = json.loads(notification("a", version="b-c"))
    both = json.dumps({**one, "alerts": one["alerts"] + two["alerts"]}).encode()

    assert world.takes(both) == ["filed", "filed"]


def test_a_model_that_prometheus_does_not_know_is_held_back(world: World, tmp_path: Path) -> None:
    answers = {**USUAL, "tidegate_model_info": []}
    with prometheus(answers) as world.url:
        assert world.takes(notification("m")) == ["unknown-model"]
    assert world.takes(notification("m")) == ["filed"]  # Prometheus is not available any more


def test_a_file_with_an_impossible_time_is_no_request(world: World) -> None:
    (world.folder.path / f"20261399T000000.000000Z-m-1-{'a' * 16}.json").write_text("{}")

    assert world.takes(notification("m")) == ["filed"]


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"version": NaN}',
        json.dumps({**payload(), "more": float("nan")}).encode(),
        b'{"version": "\xff"}',
        b'{"version": "\\ud800"}',
        json.dumps({**payload(), "truncatedAlerts": 10**400}).encode(),
        json.dumps({**payload(), "groupLabels": {"k\n" * 100_000: 1}}).encode(),
        b"\xef\xbb\xbf{}",
    ],
    ids=["deep", "NaN", "NaN aside", "no UTF-8", "surrogate", "huge", "long key", "BOM"],
)
def test_what_is_no_notification_is_refused_in_a_short_line(body: bytes) -> None:
    with pytest.raises(AlertsRefused) as refused:
        Notification.parse(body)

    assert len(str(refused.value)) < 600
    assert str(refused.value).isprintable()


def test_a_pipe_and_a_link_in_the_review_folder_are_passed_over(world: World) -> None:
    day = world.review / "2026-01-02"
    side = {"request_id": "r", "decision": "review", "class_id": 1, "time": NOW.isoformat()}
    (world.review / "secret").write_text(json.dumps(side))
    os.mkfifo(day / "a.json")
    (day / "b.json").symlink_to(world.review / "secret")
    (day / "c.json").write_text(json.dumps({**side, "class_id": 10**400}))
    (world.review / "2026-01-01").symlink_to(day)

    assert read_reviewed(world.review, NOW) == ([], 4)
