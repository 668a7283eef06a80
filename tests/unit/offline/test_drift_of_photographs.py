"""The drift report of real photographs: silent on more of them, and rotated ones are named."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from load_tests.bulk.image_set import ImageSet
from tests.server import DEMO_BUNDLE, PHOTOS
from tests.unit.offline.recalibrated import recalibrated
from tidegate.service.bundle_reference import drift_reference
from tidegate.service.offline.answers import Answer
from tidegate.service.offline.drift.notes import Noted, NoteTaker
from tidegate.service.offline.drift.records import Collector, Notes, read
from tidegate.service.offline.drift.report import build
from tidegate.service.offline.drift.words import findings
from tidegate.service.offline.predictor import Predictor

REFERENCE, SET, DRAWS = 400, 120, 8

pytestmark = pytest.mark.slow


def photographs(numbers: range, names: Sequence[str] = ()) -> list[bytes]:
    """Parts of photographs; with `names` of these photographs only."""
    paths = sorted(p for p in PHOTOS.glob("*.*") if not names or p.stem in names)
    images = ImageSet(paths, 0.0, seed=0)
    return [images.picture(number).data for number in numbers]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    demo = Predictor(DEMO_BUNDLE, batch_size=4)
    folder = tmp_path_factory.mktemp("bundle") / "1"
    path = recalibrated(folder, demo, photographs(range(REFERENCE)))
    demo.close()
    opened = Predictor(path, batch_size=4)
    yield opened
    opened.close()


def noted(predictor: Predictor, images: Sequence[bytes]) -> list[Noted]:
    taker = NoteTaker(predictor.bundle)
    answers = predictor.predict(images)
    return [
        taker.note(index, image, answer)
        for index, (image, answer) in enumerate(zip(images, answers, strict=True))
        if isinstance(answer, Answer)
    ]


def notes(predictor: Predictor, images: Sequence[Noted], path: Path) -> Notes:
    collector = Collector(drift_reference(predictor.bundle))
    for index, one in enumerate(images):
        collector.add(index, f"{index}.jpg", one)
    (path / "set.npz").write_bytes(collector.part())
    facts = {"digest": predictor.bundle.digest, "shard": (1, 1), "outcomes": {}}
    return replace(read(path / "set.npz"), facts=facts)


def named(predictor: Predictor, images: Sequence[Noted], path: Path) -> dict[str, str]:
    """Return what a report names, with its text."""
    drift = build(predictor.bundle, [notes(predictor, images, path)])
    return {one.what: one.text for one in findings(drift, predictor.bundle.labels)}


def test_more_of_the_same_photographs_are_silent(predictor: Predictor, tmp_path: Path) -> None:
    start = REFERENCE + SET * DRAWS
    pool = noted(predictor, photographs(range(REFERENCE, start)))

    found = [named(predictor, pool[at : at + SET], tmp_path) for at in range(0, len(pool), SET)]

    assert len(found) == DRAWS
    assert found == [{}] * DRAWS
    assert named(predictor, pool, tmp_path) == {}


def changed(images: Sequence[bytes], change: Callable[[Image.Image], Image.Image]) -> list[bytes]:
    made = []
    for image in images:
        content = io.BytesIO()
        with Image.open(io.BytesIO(image)) as opened:
            change(opened).save(content, "JPEG", quality=80)
        made.append(content.getvalue())
    return made


def test_rotated_photographs_are_named(predictor: Predictor, tmp_path: Path) -> None:
    images = photographs(range(10_000, 10_000 + SET))
    rotated = changed(images, lambda image: image.transpose(Image.Transpose.ROTATE_90))

    found = named(predictor, noted(predictor, rotated), tmp_path)

    assert {"embedding", "aspect"} <= set(found)
    assert "The images are narrower" in found["aspect"]
    assert "brightness" not in found


def test_darkened_photographs_are_named(predictor: Predictor, tmp_path: Path) -> None:
    images = photographs(range(10_000, 10_000 + SET))
    dark = changed(images, lambda image: image.point(lambda level: round(0.35 * level)))

    found = named(predictor, noted(predictor, dark), tmp_path)

    assert "The images are darker" in found["brightness"]
    assert "lower in contrast" in found["contrast"]


def test_another_mix_is_named_with_its_classes(predictor: Predictor, tmp_path: Path) -> None:
    images = photographs(range(20_000, 20_000 + SET), ["chelsea", "coffee"])

    found = named(predictor, noted(predictor, images), tmp_path)

    assert "espresso" in found["class-share"] or "cat" in found["class-share"]
    grown = np.array([name in found["class-share"] for name in ("espresso", "cat", "missile")])
    assert grown.any()
