"""The large set is the same everywhere, and what differs from the service is noticed."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from load_tests.bulk.image_set import ImageSet, write_shard
from load_tests.bulk.online import Agreement
from load_tests.client.connection import Response
from tests.server import PHOTOS

PATHS = sorted(PHOTOS.glob("*.*g"))[:2]
ROW = {
    "decision": "accept",
    "error": None,
    "p_value": 0.5,
    "top_k": [{"class_id": 7, "probability": 0.9}],
}


def test_an_image_depends_on_the_seed_and_its_number_only(tmp_path: Path) -> None:
    images = ImageSet(PATHS, 0.5, seed=1)

    write_shard(images, range(10, 16), tmp_path / "shard.tar")

    with tarfile.open(tmp_path / "shard.tar") as archive:
        names = archive.getnames()
        file = archive.extractfile(names[3])
        assert file is not None
        assert file.read() == ImageSet(PATHS, 0.5, seed=1).picture(13).data
    assert [name[:6] for name in names] == [f"{n:06}" for n in range(10, 16)]
    assert 0 < sum("bad" in name for name in names) < 6
    assert ImageSet(PATHS, 0.0, seed=2).picture(13).data != images.picture(13).data


def answer(**fields: Any) -> Response:
    body = {
        "decision": "accept",
        "ood": {"p_value": 0.5},
        "predictions": [{"class_id": 7, "probability": 0.9}],
        **fields,
    }
    return Response(200, body=json.dumps(body).encode())


@pytest.mark.parametrize(
    ("response", "outcomes", "classes", "difference"),
    [
        (answer(), 0, 0, 0.0),
        (answer(decision="review"), 1, 0, 0.0),
        (answer(ood={"p_value": 0.25}), 0, 0, 0.25),
        (answer(predictions=[{"class_id": 8, "probability": 0.9}]), 0, 1, 0.0),
        (answer(predictions=[{"class_id": 7, "probability": 0.4}]), 0, 0, 0.5),
    ],
)
def test_what_differs_from_the_service_is_noticed(
    response: Response, outcomes: int, classes: int, difference: float
) -> None:
    found = Agreement()

    found.add("a.jpg", ROW, response)

    assert (len(found.other_outcomes), len(found.other_classes)) == (outcomes, classes)
    assert found.largest_difference == pytest.approx(difference)
