"""The benchmark of decoding runs, and measures every way."""

from __future__ import annotations

import pytest

from tests.server import PHOTOS
from tests.unit.imaging.pictures import resize_then_crop
from tidegate.models.benchmarks.decoding import jpeg_of, times_of


@pytest.mark.parametrize("size", [(64, 48), (300, 200)])
def test_every_way_is_measured(size: tuple[int, int]) -> None:
    data = jpeg_of(PHOTOS / "rocket.jpg", size)

    times = times_of(data, resize_then_crop(64, (56, 56)), rounds=2)

    assert {"whole_avx2_ms", "in_part_avx2_ms"} <= times.keys()
    assert all(time_ms >= 0 for time_ms in times.values())
