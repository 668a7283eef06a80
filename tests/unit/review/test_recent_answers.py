"""Feedback is matched to a recent answer, and labels the kept image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tidegate.service.review import recent_answers
from tidegate.service.review.answered import Answered
from tidegate.service.review.image_store import ImageStore, ReviewConfig
from tidegate.service.review.recent_answers import RecentAnswers

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 100
ANSWER = Answered("r1", "review", 3, "tabby, cat", 0.7, 0.02, "m", "1", "d" * 64)
CLASSES = 10


def test_feedback_labels_the_image_that_was_kept_and_counts_once(tmp_path: Path) -> None:
    images = ImageStore(
        ReviewConfig(tmp_path, 10_000_000, 1000.0, 0.0), lambda outcome: None, on_death=print
    )
    answers = RecentAnswers(images)
    answers.remember(PNG, ANSWER, CLASSES)

    assert answers.label("r1", 7) == (ANSWER, True)
    assert answers.label("r1", 8) == (ANSWER, False)
    assert answers.label("unknown", 7) is None
    images.close(10)
    (kept,) = tmp_path.glob("*/*.json")
    assert json.loads(kept.read_bytes())["true_class"] == 8


def test_feedback_needs_no_image_store() -> None:
    answers = RecentAnswers()
    answers.remember(PNG, ANSWER, CLASSES)

    assert answers.label("r1", 3) == (ANSWER, True)


def test_old_answers_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_answers, "MAX_ANSWERS", 2)
    answers = RecentAnswers()
    for index in range(3):
        answers.remember(PNG, ANSWER._replace(request_id=f"r{index}"), CLASSES)

    assert answers.label("r0", 1) is None
    assert answers.label("r2", 1) is not None
