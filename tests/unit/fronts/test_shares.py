"""How many front ends there are, and what each gets of the limits."""

from __future__ import annotations

import pytest

from tidegate.service.fronts.shares import front_ends_for, share_of


@pytest.mark.parametrize(
    ("setting", "cores", "has_gpu", "expected"),
    [
        (0, 2, True, 0),
        (0, 4, True, 0),
        (0, 16, True, 16),
        (0, 16, False, 0),
        (-1, 16, True, 0),
        (1, 16, True, 1),
        (2, 2, False, 2),
    ],
)
def test_the_number_of_front_ends(setting: int, cores: int, has_gpu: bool, expected: int) -> None:
    assert front_ends_for(setting, cores, has_gpu=has_gpu) == expected


@pytest.mark.parametrize(
    ("total", "front_ends", "least", "share"),
    [(1024, 4, 16, 256), (1025, 4, 16, 257), (20, 4, 16, 16), (1, 16, 1, 1)],
)
def test_a_share_is_never_too_little(total: int, front_ends: int, least: int, share: int) -> None:
    assert share_of(total, front_ends, least) == share
