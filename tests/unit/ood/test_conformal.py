"""p-values by counting, and the sample sizes that an alpha needs."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.service.ood.conformal import combined_score, p_value, sample_size_for

scores = st.floats(allow_nan=False, allow_infinity=True)
tied = st.integers(-3, 3).map(float)


def by_counting(calibration: list[float], score: float) -> float:
    as_unusual = sum(1 for value in calibration if value >= score)
    return float(Fraction(1 + as_unusual, len(calibration) + 1))


@settings(max_examples=200, deadline=None)
@given(st.lists(scores | tied, min_size=1, max_size=40), scores | tied)
def test_a_p_value_is_the_share_of_calibration_scores_at_least_as_unusual(
    calibration: list[float], score: float
) -> None:
    assert p_value(np.sort(calibration), score) == by_counting(calibration, score)


def test_ties_count_as_unusual() -> None:
    calibration = np.array([1.0, 2.0, 2.0, 2.0, 3.0])

    assert p_value(calibration, 2.0) == 5 / 6
    assert p_value(calibration, np.nextafter(2.0, 3.0)) == 2 / 6


def test_the_extremes_are_one_and_one_in_n_plus_one() -> None:
    calibration = np.arange(99.0)

    assert p_value(calibration, -math.inf) == 1.0
    assert p_value(calibration, math.inf) == 0.01
    assert p_value(calibration, 98.0) == 0.02


def test_nan_is_more_unusual_than_any_score() -> None:
    assert p_value(np.arange(99.0), math.nan) == 0.01


def test_an_array_of_scores_gives_an_array_of_p_values() -> None:
    calibration, many = np.array([1.0, 2.0, 4.0]), np.array([0.0, 2.0, 3.0, 9.0, np.nan])

    assert p_value(calibration, many).tolist() == [p_value(calibration, s) for s in many.tolist()]


def test_the_combined_score_is_higher_for_the_more_unusual() -> None:
    assert combined_score(0.5, 0.01) > combined_score(0.5, 0.4)
    assert combined_score(0.01, 0.5) == combined_score(0.5, 0.01)


@pytest.mark.parametrize(
    ("alpha", "size"),
    [(0.5, 1), (0.1, 9), (0.05, 19), (0.01, 99), (0.005, 199), (0.001, 999), (1 / 3, 2), (0.3, 3)],
)
def test_an_alpha_needs_one_over_alpha_minus_one_images(alpha: float, size: int) -> None:
    assert sample_size_for(alpha) == size


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-4, 0.99))
def test_that_many_images_reach_the_alpha_and_one_fewer_do_not(alpha: float) -> None:
    size = sample_size_for(alpha)
    slack = 1e-9  # 1 / alpha is rounded so that 1 / 0.05 − 1 is 19 and not 20

    assert p_value(np.zeros(size), math.inf) <= alpha * (1 + slack)
    assert size == 1 or p_value(np.zeros(size - 1), math.inf) > alpha * (1 - slack)
