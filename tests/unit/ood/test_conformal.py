"""p-values by counting, their fitted tail, and the sample sizes that an alpha needs."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.service.ood.conformal import TAIL_SHARE, TailedFold, sample_size_for
from tidegate.service.ood.gates import FinalFold, combined_score

scores = st.floats(-1e6, 1e6)
tied = st.integers(-3, 3).map(float)


def by_counting(calibration: list[float], score: float) -> float:
    as_unusual = sum(1 for value in calibration if value >= score)
    return float(Fraction(1 + as_unusual, len(calibration) + 1))


@pytest.mark.lengthy
@settings(max_examples=200, deadline=None)
@given(st.lists(scores | tied, min_size=1, max_size=40), scores | tied)
def test_a_final_p_value_is_the_share_of_calibration_scores_at_least_as_unusual(
    calibration: list[float], score: float
) -> None:
    fold = FinalFold.marginal(np.sort(calibration))

    assert fold.p_values(np.array([score])) == [by_counting(calibration, score)]


@pytest.mark.lengthy
@settings(max_examples=200, deadline=None)
@given(st.lists(scores | tied, min_size=1, max_size=40), scores | tied)
def test_below_the_tail_a_score_s_p_value_is_counted(
    calibration: list[float], score: float
) -> None:
    fold = TailedFold.of(np.sort(calibration))

    if score <= fold.start:
        assert fold.log_p(score) == pytest.approx(math.log(by_counting(calibration, score)))
    else:
        assert fold.log_p(score) <= fold.log_p_at_start


@pytest.mark.lengthy
@settings(max_examples=200, deadline=None)
@given(st.lists(scores | tied, min_size=1, max_size=40), scores | tied, scores | tied)
def test_a_more_unusual_score_never_has_a_larger_p_value(
    calibration: list[float], first: float, second: float
) -> None:
    fold = TailedFold.of(np.sort(calibration))
    low, high = sorted((first, second))

    assert fold.log_p(low) >= fold.log_p(high) > -math.inf


def test_the_tail_of_exponential_scores_has_their_scale_and_is_close_to_the_truth() -> None:
    sample = np.sort(np.random.default_rng(0).exponential(3.0, 20_000))

    fold = TailedFold.of(sample)

    assert fold.scale == pytest.approx(3.0, rel=0.1)  # 2,000 scores: ± .02 each
    assert fold.start == sample[-int(TAIL_SHARE * len(sample))]
    assert fold.log_p(60.0) == pytest.approx(-20.0, rel=0.1)


@pytest.mark.parametrize("level", [0.0, -7.5, 1e30])
def test_tied_scores_still_have_a_tail_that_orders_larger_ones(level: float) -> None:
    fold = TailedFold.of(np.full(50, level))

    assert fold.scale > 0
    assert fold.log_p(level) == 0.0
    far = 1e15 + abs(level)
    assert -math.inf < fold.log_p(level + 2 * far) < fold.log_p(level + far) < fold.log_p(level)


def test_the_sum_of_the_smallest_p_values_is_finite() -> None:
    fold = TailedFold.of(np.zeros(50))

    combined = combined_score([fold.log_p(3e38)] * 3)

    assert fold.log_p(1.0) < combined < math.inf
    assert fold.log_p(np.array([3e38])).tolist() == [fold.log_p(3e38)]


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_more_unusual_than_any(score: float) -> None:
    fold = TailedFold.of(np.arange(99.0))

    assert fold.log_p(score) == -math.inf
    assert fold.log_p(np.array([score, 0.0])).tolist() == [-math.inf, 0.0 + fold.log_p(0.0)]


def test_an_array_of_scores_gives_exactly_the_p_values_of_single_ones() -> None:
    rng = np.random.default_rng(1)
    fold, many = TailedFold.of(np.sort(rng.normal(size=200))), rng.normal(scale=3, size=1000)

    assert fold.log_p(many).tolist() == [fold.log_p(score) for score in many.tolist()]


def test_the_combined_score_is_higher_for_the_more_unusual() -> None:
    assert combined_score([-0.5, -4.0]) > combined_score([-0.5, -1.0])
    assert combined_score([-math.inf, 0.0]) == math.inf


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

    assert 1 / (size + 1) <= alpha * (1 + slack)
    assert size == 1 or 1 / size > alpha * (1 - slack)
