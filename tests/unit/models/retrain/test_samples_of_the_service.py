"""A request's samples are chosen from the images that the service keeps for review."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tidegate.models.retrain.samples import read_reviewed
from tidegate.service.review.answered import Answered
from tidegate.service.review.image_store import ImageStore, ReviewConfig

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_services_sidecars_are_read(tmp_path: Path) -> None:
    kept = ImageStore(
        ReviewConfig(tmp_path, 1_000_000, 10, 0.0), lambda outcome: None, on_death=print
    )
    kept.offer(PNG, Answered("r/1", "reject", 4, "four", 0.5, 0.01, "m", "1", "d" * 64))
    kept.close(10)

    images, unreadable = read_reviewed(tmp_path, datetime.now(UTC))

    assert unreadable == 0
    assert [(i.request_id, i.decision, i.class_id) for i in images] == [("r/1", "reject", 4)]
