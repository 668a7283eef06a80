"""Features of a frozen backbone are computed once and kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.models import tiny
from tests.unit.models.colour_folders import backbone
from tests.unit.models.training.pictures import picture, put
from tidegate.models.data.outputs import load_pixels
from tidegate.models.data.training_data import Labelled
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.new_head import with_head
from tidegate.models.graphs.session import run_once
from tidegate.models.parity.preprocessing import normalised
from tidegate.models.training.features import features


@pytest.fixture
def images(tmp_path: Path) -> list[Labelled]:
    return [Labelled(put(tmp_path / f"{i}.png", picture(i)), i % 2) for i in range(4)]


def kept(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.npz"))


def test_they_are_those_of_the_backbone(images: list[Labelled], tmp_path: Path) -> None:
    found = features(backbone(), tiny.SPEC, images, tmp_path / "cache")

    batch = np.stack([normalised(load_pixels(i.path, tiny.SPEC), tiny.SPEC) for i in images])
    (expected,) = run_once(backbone(), ("features",), batch)
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    assert found.class_ids.tolist() == [0, 1, 0, 1]


def test_what_is_kept_is_not_computed_again(images: list[Labelled], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    features(backbone(), tiny.SPEC, images[:3], cache)
    (file,) = kept(cache)
    with np.load(file) as content:
        digests, values = content["sha256"], content["features"]
    np.savez(file, sha256=digests, features=values + 100)  # so that it is seen

    other_head = with_head(backbone(), np.eye(6), np.zeros(6))
    found = features(other_head, tiny.SPEC, images, cache)

    assert (found.values[:3] > 50).all()
    assert (found.values[3] < 50).all()
    assert len(kept(cache)) == 2


def test_another_preprocessing_has_other_features(images: list[Labelled], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    features(backbone(), tiny.SPEC, images, cache)

    features(backbone(), tiny.SPEC.model_copy(update={"mean": (0.1, 0.1, 0.1)}), images, cache)

    assert len({path.parent for path in kept(cache)}) == 2


def test_a_damaged_file_is_replaced(images: list[Labelled], tmp_path: Path) -> None:
    first = features(backbone(), tiny.SPEC, images, tmp_path / "cache")
    (file,) = kept(tmp_path / "cache")
    file.write_bytes(file.read_bytes()[:100])

    again = features(backbone(), tiny.SPEC, images, tmp_path / "cache")

    np.testing.assert_array_equal(again.values, first.values)


def test_images_that_cannot_be_decoded_are_named(images: list[Labelled], tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"no image")

    with pytest.raises(BuildRefused, match=r"1 of 5 training images cannot be decoded.*torn.png"):
        features(
            backbone(), tiny.SPEC, [*images, Labelled(tmp_path / "torn.png", 0)], tmp_path / "cache"
        )
