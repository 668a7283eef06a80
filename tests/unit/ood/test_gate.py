"""The gate's decisions at and around its thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.service.ood.gates import FinalFold, Gate

# Scores 0 … 98 in fold A, so that a score of 98.5 has p = 0.01 and one of −1 has p = 1.
FOLD_A = np.arange(99.0)
# Fold B has 99 distinct minima, so that the final p-value is a multiple of 0.01.
FOLD_B = np.sort(-(np.arange(99.0) + 1.5) / 100)
GATE = Gate(FOLD_A, FOLD_A, FinalFold.marginal(FOLD_B), alpha_reject=0.05, alpha_review=0.2)


def score_of(p: float) -> float:
    """Return the score whose p-value against fold A is `p`, a multiple of 0.01."""
    return 99.5 - round(100 * p)


@pytest.mark.parametrize(
    ("p", "decision"),
    [
        (0.01, "reject"),
        (0.05, "reject"),
        (0.06, "review"),
        (0.20, "review"),
        (0.21, "accept"),
        (1.00, "accept"),
    ],
)
def test_a_p_value_of_exactly_alpha_gets_the_stricter_decision(p: float, decision: str) -> None:
    verdict = GATE.judge(score_of(p), score_of(1.0), 0)

    assert verdict.p_value == pytest.approx(p, abs=1e-12)
    assert verdict.decision == decision


def test_a_single_score_can_reject() -> None:
    assert GATE.judge(1e9, -1e9, 0).decision == "reject"
    assert GATE.judge(-1e9, 1e9, 0).decision == "reject"
    assert GATE.judge(-1e9, -1e9, 0).decision == "accept"


def test_the_verdict_contains_the_p_value_of_each_score() -> None:
    verdict = GATE.judge(score_of(0.30), score_of(0.70), 0)

    assert verdict.energy_p_value == pytest.approx(0.30)
    assert verdict.mahalanobis_p_value == pytest.approx(0.70)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["energy", "mahalanobis"])
def test_a_nan_score_is_rejected(which: str, bad: float) -> None:
    usual = score_of(1.0)

    verdict = GATE.judge(bad, usual, 0) if which == "energy" else GATE.judge(usual, bad, 0)

    assert verdict.decision == "reject"
    assert verdict.p_value == 0.01


def test_the_percentile_is_the_share_of_less_unusual_calibration_images() -> None:
    assert GATE.judge(1e9, 1e9, 0).percentile == 100.0
    assert GATE.judge(-1e9, -1e9, 0).percentile == 0.0
    assert GATE.judge(score_of(0.51), score_of(1.0), 0).percentile == pytest.approx(100 * 49 / 99)


def test_the_calibration_size_is_that_of_the_final_fold() -> None:
    assert Gate(FOLD_A, FOLD_A, FinalFold.marginal(FOLD_B[:42]), 0.05, 0.2).calibration_size == 42


def test_the_verdict_is_made_of_plain_numbers() -> None:
    verdict = GATE.judge(1.0, 2.0, 0)

    numbers = (
        verdict.p_value,
        verdict.percentile,
        verdict.energy_p_value,
        verdict.mahalanobis_p_value,
    )
    assert {type(number) for number in numbers} == {float}


@settings(max_examples=100, deadline=None)
@given(st.floats(-200, 200), st.floats(-200, 200), st.floats(0, 200))
def test_a_more_unusual_score_never_gets_a_milder_verdict(
    energy: float, mahalanobis: float, more: float
) -> None:
    strictness = {"accept": 0, "review": 1, "reject": 2}

    before, after = GATE.judge(energy, mahalanobis, 0), GATE.judge(energy + more, mahalanobis, 0)

    assert after.p_value <= before.p_value
    assert after.percentile >= before.percentile
    assert strictness[after.decision] >= strictness[before.decision]
