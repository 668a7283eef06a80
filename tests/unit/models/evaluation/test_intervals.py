"""Intervals of proportions, against scipy's and against their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tidegate.models.evaluation.intervals import (
    beta_share,
    clopper_pearson,
    mean_share,
    wilson,
    wilson_share,
)

counts = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.lengthy
@given(counts)
def test_both_intervals_agree_with_scipy(count: tuple[int, int]) -> None:
    k, n = count
    test = binomtest(k, n)

    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        theirs = test.proportion_ci(0.95, method=method)
        # both compute in float64; beta quantiles are solved to about 1e-10
        np.testing.assert_allclose(ours(k, n), (theirs.low, theirs.high), rtol=1e-9, atol=1e-12)


@given(counts)
def test_a_share_is_in_its_interval_and_all_three_are_in_the_unit_interval(
    count: tuple[int, int],
) -> None:
    for share in (wilson_share(*count), beta_share(*count)):
        assert 0 <= share.low <= share.value <= share.high <= 1


def test_no_success_and_only_successes_have_one_sided_intervals() -> None:
    assert wilson_share(0, 50).low == beta_share(0, 50).low == 0
    assert wilson_share(50, 50).high == beta_share(50, 50).high == 1


def test_the_interval_of_one_proportion_s_mean_is_wilson_s() -> None:
    share, alone = mean_share(np.array([7]), np.array([20])), wilson_share(7, 20)

    assert (share.low, share.high) == pytest.approx((alone.low, alone.high), abs=1e-15)


@pytest.mark.parametrize(("classes", "images", "beta"), [(10, 12, 8), (100, 30, 3)])
def test_the_interval_of_a_mean_of_proportions_covers_it_in_about_95_percent_of_cases(
    classes: int, images: int, beta: int
) -> None:
    rng = np.random.default_rng(0)
    truth = rng.beta(beta, 1, classes)
    sizes = np.full(classes, images)

    held = [
        share.low <= truth.mean() <= share.high
        for share in (mean_share(rng.binomial(sizes, truth), sizes) for _ in range(1000))
    ]

    # 4 standard errors of 1000 draws below; above, small samples make it somewhat conservative
    assert 0.95 - 4 * 0.0069 <= np.mean(held) <= 0.995
