"""Requests are routed by hash: sticky, uniform, monotone in the share, apart from other salts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from tidegate.service.rollout.routing import chooses_canary, chooses_shadow

KEYS = [f"client-{i}" for i in range(20_000)]


@settings(deadline=None)
@given(st.text(), st.text(max_size=40))
def test_a_share_of_nothing_or_all_has_no_exception(key: str, salt: str) -> None:
    assert not chooses_canary(key, 0.0, salt)
    assert chooses_canary(key, 1.0, salt)


@settings(deadline=None)
@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_keeps_the_keys_of_a_smaller_one(key: str, one: float, other: float) -> None:
    small, large = sorted((one, other))

    assert chooses_canary(key, large, "parts") or not chooses_canary(key, small, "parts")


@pytest.mark.lengthy
@pytest.mark.parametrize("choose", [chooses_canary, chooses_shadow])
def test_keys_are_spread_evenly(choose: object) -> None:
    """A χ² of 20 shares of .05 each."""
    assert callable(choose)
    shares = np.arange(1, 20) / 20
    places = [sum(not choose(key, share, "parts/4") for share in shares) for key in KEYS]

    assert chisquare(np.bincount(places, minlength=20)).pvalue > 0.001


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_other_salts_and_the_shadow_choose_other_keys(share: float) -> None:
    chosen = {key for key in KEYS if chooses_canary(key, share, "parts/4")}
    others = (
        {key for key in KEYS if chooses_canary(key, share, "parts/5")},
        {key for key in KEYS if chooses_shadow(key, share, "parts/4")},
    )

    for other in others:
        both = len(chosen & other) / len(KEYS)
        assert both == pytest.approx(share**2, abs=4 * share / len(KEYS) ** 0.5)


def test_the_choice_does_not_change_between_processes() -> None:
    """These values are fixed: another hash would move clients between versions in an upgrade."""
    assert [chooses_canary(f"key-{i}", 0.5, "parts/4") for i in range(12)] == FIXED


FIXED = [i in (3, 4, 7, 9) for i in range(12)]
