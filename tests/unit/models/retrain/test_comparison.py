"""Two versions on the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.models import tiny
from tests.unit.models.training.pictures import picture, put
from tidegate.models.data.training_data import Labelled
from tidegate.models.evaluation.intervals import wilson_share
from tidegate.models.retrain.comparison import Answers, Compared, answers
from tidegate.models.retrain.report import in_words, report
from tidegate.models.sealing.write import write_bundle
from tidegate.service.bundle.store import Bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    files = tiny.bundle_files()
    return write_bundle(tmp_path_factory.mktemp("tiny"), tiny.bundle_manifest(files), files)


def right(count: int, of: int) -> Answers:
    """Return answers that are right for the first images."""
    which = np.arange(of) < count
    return Answers(wilson_share(count, of), count / of, 0.5, 0.02, {"accept": of}, which)


def test_images_are_answered_as_the_service_does(bundle: Bundle, tmp_path: Path) -> None:
    images = [Labelled(put(tmp_path / f"{i}.png", picture(i)), i % 5) for i in range(10)]
    (tmp_path / "torn.png").write_bytes(b"no image")

    found = answers(bundle, [*images, Labelled(tmp_path / "torn.png", 0)], "ten")

    assert len(found.right) == 11
    assert not found.right[-1]
    assert found.accuracy.images == 11
    assert sum(found.decisions.values()) == 10


@pytest.mark.parametrize(
    ("old", "new", "words", "worse"),
    [
        (80, 95, "corrects 15 images and breaks 0 (McNemar's exact test: p = 6.1e-05)", False),
        (80, 95, "it is better on these images", False),
        (80, 78, "p = 0.5): a difference is not shown", False),
        (95, 80, "p = 6.1e-05): it is worse on these images", True),
        (80, 80, "corrects 0 images and breaks 0 (McNemar's exact test: p = 1)", False),
    ],
)
def test_a_difference_is_stated_only_beyond_chance(
    old: int, new: int, words: str, worse: bool
) -> None:
    both = Compared(right(old, 100), right(new, 100))

    assert words in in_words(both)
    assert both.is_clearly_worse is worse


def test_the_report_shows_both_versions(bundle: Bundle) -> None:
    both = Compared(right(80, 100), right(95, 100))

    text = report(
        "request.json", bundle, bundle, ["3 new images."], {"the old test images": both}, ("a", "b")
    )

    assert "## The old test images" in text
    assert "| accuracy | 80.00 % (71.12 to 86.66 %) | 95.00 % (88.82 to 97.85 %) |" in text
    assert "- 3 new images." in text
    assert "Nothing was deployed." in text
