"""The exported graph is compared with its framework on images that can be decoded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.models import tiny
from tests.unit.models.colour_folders import imported
from tests.unit.models.training.pictures import picture, put
from tidegate.models.data.folders import Item, Split
from tidegate.models.errors import BuildRefused
from tidegate.models.parity.export import check_export
from tidegate.models.precision.convert import _batches


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Return a file that is no image, and two images."""
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"no image")
    paths = [torn, *(put(tmp_path / f"{i}.png", picture(i)) for i in range(2))]
    return Split("calibrate", tuple(Item(path, 0, path.name) for path in paths))


def test_files_that_cannot_be_decoded_are_left_out(split: Split) -> None:
    assert max(check_export(imported(), tiny.SPEC, split)) < 1e-4
    assert [len(batch) for batch in _batches(split, tiny.SPEC)] == [2]


def test_a_split_without_an_image_is_refused(split: Split) -> None:
    torn = Split("calibrate", split.items[:1])

    with pytest.raises(BuildRefused, match=r"No image of calibrate can be decoded, .*torn.png"):
        check_export(imported(), tiny.SPEC, torn)
