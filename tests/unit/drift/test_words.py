"""GET /drift says in words what changed, since when, and what could not have been noticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.drift.test_monitor import CLASSES, START, WIDTH, feed, reference
from tidegate.service.drift.duplicates import fingerprint
from tidegate.service.drift.monitor import Monitor
from tidegate.service.drift.words import findings, outlook
from tidegate.service.types import Pixels

LABELS = [f"label {c}" for c in range(CLASSES)]
NO_FEATURES = np.zeros(WIDTH, np.float32)


def only(class_id: int, monitor: Monitor, images: int, rejected: bool = False) -> None:
    """Feed images of one class, or rejected ones, at 600 an hour."""
    rng = np.random.default_rng(9)
    start = START + 6 * monitor.report().images
    for image, p in enumerate(rng.random(images).tolist()):
        value = p / 200 if rejected else 0.01 + 0.99 * p
        monitor.observe(class_id, p, value, NO_FEATURES, rejected=rejected, time=start + 6 * image)


def test_without_an_alarm_there_is_no_finding() -> None:
    monitor = Monitor(reference())
    feed(monitor, 2000, inputs=False)

    assert findings(monitor.report(), LABELS) == []


def test_a_class_that_takes_over_is_named_with_its_shares_and_since_when() -> None:
    monitor = Monitor(reference())
    feed(monitor, 5000, inputs=False)
    only(3, monitor, 100)

    (found,) = findings(monitor.report(), LABELS)

    assert found.monitor == "class-mix"
    assert "label 3 (3) from 10 % to" in found.text
    assert "at most once in 1,000,000 images" in found.text
    assert found.classes[0].class_id == 3
    assert found.classes[0].now > found.classes[0].before
    # 5,000 images at 600 an hour take 8 h 20 min.
    assert found.since is not None
    assert "2026-01-05T08:1" <= found.since <= "2026-01-05T08:31"
    assert found.ends_after is not None
    assert 0 < found.ends_after <= 300


def test_rejections_are_reported_with_their_share_and_what_is_usual() -> None:
    monitor = Monitor(reference())
    feed(monitor, 5000, inputs=False)
    only(0, monitor, 100, rejected=True)

    text = {found.monitor: found.text for found in findings(monitor.report(), LABELS)}

    assert "of the last 200 images were rejected" in text["ood-rate"]
    assert "up to 1.5 % is usual" in text["ood-rate"]


def test_every_alarm_has_a_finding() -> None:
    monitor = Monitor(reference())
    feed(monitor, 4800, inputs=False)
    feed(monitor, 2000, seed=1, moved=2.0, p_power=4.0, brightness=0.3)

    report = monitor.report()

    assert {"ood-rate", "embedding", "p-value", "brightness"} <= report.alarms
    assert {found.monitor for found in findings(report, LABELS)} == report.alarms


def test_the_outlook_says_what_could_and_what_could_not_be_seen() -> None:
    monitor = Monitor(replace(reference(), calibration_samples=200))
    feed(monitor, 4800, inputs=False)

    text = "\n".join(outlook(monitor.report(), LABELS))

    assert "A rejected share of 2 % is not noticed by the sequential monitors" in text
    assert "A rejected share of 20 % would be noticed after about" in text
    assert "of 10 classes" in text
    assert "The monitors have learned from 0 of 7 days." in text


def test_the_outlook_says_what_could_not_have_been_seen_yet() -> None:
    monitor = Monitor(reference())
    feed(monitor, 20, inputs=False)

    text = "\n".join(outlook(monitor.report(), LABELS))

    assert "could not have been noticed yet" in text


@pytest.mark.lengthy
def test_the_outlook_warns_of_runs_and_of_those_that_are_too_long() -> None:
    endless, runs = Monitor(reference()), Monitor(reference())
    only(3, endless, 1000)
    for run in range(100):
        only(run * 7 % CLASSES, runs, 10)

    assert "Predicted classes come in longer runs than can be taken into account" in "\n".join(
        outlook(endless.report(), LABELS)
    )
    assert "Predicted classes come in runs: " in "\n".join(outlook(runs.report(), LABELS))


def test_near_duplicates_are_counted_once_and_reported() -> None:
    monitor = Monitor(reference())
    rng = np.random.default_rng(0)
    for image in range(40):
        same = fingerprint(Pixels(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)))
        for copy in range(10):
            monitor.observe(
                image % CLASSES,
                0.5,
                0.5,
                NO_FEATURES,
                rejected=False,
                time=START + image + copy / 100,
                client="a",
                fingerprint=same,
            )

    report = monitor.report()

    assert report.images == 400
    assert report.learned.near_duplicates == 360
    assert report.recent_classes.sum() == 40


def test_a_camera_that_sends_one_dark_image_for_ever_is_noticed() -> None:
    monitor = Monitor(reference())
    feed(monitor, 4800, inputs=False)
    dark = fingerprint(Pixels(np.zeros((32, 32, 3), np.uint8)))
    for second in range(0, 3600, 6):
        monitor.observe(
            0,
            0.5,
            0.0005,
            NO_FEATURES,
            rejected=True,
            time=START + 30_000 + second,
            client="camera",
            fingerprint=dark,
        )

    assert "ood-rate" in monitor.report().alarms
