"""The benchmark of decoding runs, and measures both ways."""

from __future__ import annotations

import pytest

from tests.server import PHOTOS
from tests.unit.imaging.pictures import resize_then_crop
from tidegate.models.benchmarks.decoding import jpeg_of, whole_and_in_part


@pytest.mark.parametrize("size", [(64, 48), (300, 200)])
def test_both_ways_are_measured(size: tuple[int, int]) -> None:
    data = jpeg_of(PHOTOS / "rocket.jpg", size)

    times = whole_and_in_part(data, resize_then_crop(64, (56, 56)), rounds=2)

    assert all(time_ms >= 0 for time_ms in times)
