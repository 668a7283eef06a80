"""Exact intervals are those of scipy."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from tidegate.service.rollout.intervals import beta_cdf, clopper_pearson


@pytest.mark.lengthy
@settings(deadline=None)
@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.999]))
def test_an_interval_is_that_of_scipy(n: int, share: float, level: float) -> None:
    hits = round(share * n)
    expected = binomtest(hits, n).proportion_ci(level, "exact")

    assert clopper_pearson(hits, n, level) == pytest.approx(tuple(expected), abs=1e-9)


@pytest.mark.parametrize("hits", [0, 1, 9_500_000, 9_999_999, 10_000_000])
def test_ten_million_images_are_no_problem(hits: int) -> None:
    expected = binomtest(hits, 10_000_000).proportion_ci(0.95, "exact")

    assert clopper_pearson(hits, 10_000_000) == pytest.approx(tuple(expected), rel=1e-6, abs=1e-12)


@settings(deadline=None)
@given(st.floats(0.5, 1e4), st.floats(0.5, 1e4), st.floats(0, 1))
def test_the_distribution_is_that_of_scipy(a: float, b: float, x: float) -> None:
    assert beta_cdf(a, b, x) == pytest.approx(beta.cdf(x, a, b), abs=1e-9)


def test_without_images_anything_is_possible() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
