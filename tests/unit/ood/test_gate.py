"""The gate's decisions at and around its thresholds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.service.ood.conformal import TailedFold
from tidegate.service.ood.gates import FinalFold, Gate, combined_score

# Scores 0 … 98 in fold A. The second score decides alone, so fold B has its 99 values of −log p,
# and the final p-value is a multiple of 0.01.
FOLD_A = TailedFold.of(np.arange(99.0))
FOLD_B = np.sort(combined_score([FOLD_A.log_p(np.arange(99.0) - 0.5)]))
FOLDS_A = {"energy": FOLD_A, "mahalanobis": FOLD_A}
GATE = Gate(FOLDS_A, ("mahalanobis",), FinalFold.marginal(FOLD_B), 0.05, 0.2)
BOTH = replace(GATE, combination=("energy", "mahalanobis"))


def score_of(p: float) -> float:
    """Return the score whose final p-value is `p`, a multiple of 0.01."""
    return 99.25 - round(100 * p)


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
    verdict = GATE.judge([0.0, score_of(p)], 0)

    assert verdict.p_value == pytest.approx(p, abs=1e-12)
    assert verdict.decision == decision


def test_a_single_score_can_reject() -> None:
    assert BOTH.judge([1e9, -1e9], 0).decision == "reject"
    assert BOTH.judge([-1e9, 1e9], 0).decision == "reject"
    assert BOTH.judge([-1e9, -1e9], 0).decision == "accept"


def test_a_score_outside_the_combination_does_not_decide() -> None:
    verdict = GATE.judge([1e9, -1e9], 0)

    assert verdict.decision == "accept"
    assert verdict.score_p_values["energy"] < 1e-9


def test_the_verdict_contains_the_p_value_of_each_score() -> None:
    verdict = GATE.judge([score_of(0.30) + 0.5, score_of(0.70) + 0.5], 0)

    assert verdict.score_p_values["energy"] == pytest.approx(0.30)
    assert verdict.score_p_values["mahalanobis"] == pytest.approx(0.70)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_a_score_that_is_not_finite_is_rejected(which: int, bad: float) -> None:
    scores = [0.0, 0.0]
    scores[which] = bad

    verdict = BOTH.judge(scores, 0)

    assert verdict.decision == "reject"
    assert verdict.p_value == 0.01


def test_the_percentile_is_the_share_of_less_unusual_calibration_images() -> None:
    assert GATE.judge([1e9, 1e9], 0).percentile == 100.0
    assert GATE.judge([-1e9, -1e9], 0).percentile == 0.0
    assert GATE.judge([0.0, score_of(0.51)], 0).percentile == pytest.approx(100 * 49 / 99)


def test_the_calibration_size_is_that_of_the_final_fold() -> None:
    assert replace(GATE, fold_b=FinalFold.marginal(FOLD_B[:42])).calibration_size == 42


def test_the_verdict_is_made_of_plain_numbers() -> None:
    verdict = GATE.judge([1.0, 2.0], 0)

    numbers = (verdict.p_value, verdict.percentile, *verdict.score_p_values.values())
    assert {type(number) for number in numbers} == {float}


@settings(max_examples=100, deadline=None)
@given(st.floats(-200, 200), st.floats(-200, 200), st.floats(0, 200))
def test_a_more_unusual_score_never_gets_a_milder_verdict(
    energy: float, mahalanobis: float, more: float
) -> None:
    strictness = {"accept": 0, "review": 1, "reject": 2}

    before = BOTH.judge([energy, mahalanobis], 0)
    after = BOTH.judge([energy + more, mahalanobis], 0)

    assert after.p_value <= before.p_value
    assert after.percentile >= before.percentile
    assert strictness[after.decision] >= strictness[before.decision]
