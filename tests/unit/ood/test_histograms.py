"""The histograms that the page shows agree with the gate's decisions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.ood.test_gate import FOLD_A, GATE
from tidegate.service.ood.gates import FinalFold, combined_score
from tidegate.service.ood.histograms import BINS, P_BINS, calibration_histograms

OWN = FinalFold.marginal(np.linspace(10.0, 12.0, 50))


def test_every_calibration_image_is_in_one_bin() -> None:
    found = calibration_histograms(GATE)

    assert [sum(bins.counts) for bins in found.scores.values()] == [99, 99]
    assert (sum(found.fold.combined.counts), found.fold.size) == (99, 99)
    assert sum(found.p_values.counts) == 99
    for bins, count in ((found.fold.combined, BINS), (found.p_values, P_BINS)):
        assert (len(bins.counts), len(bins.edges)) == (count, count + 1)
        assert (np.diff(bins.edges) > 0).all()


@given(st.floats(-5, 105))
def test_an_image_is_held_back_exactly_above_the_limits(score: float) -> None:
    fold = calibration_histograms(GATE).fold
    combined = combined_score([FOLD_A.log_p(score)])

    p = GATE.judge([0.0, score], 0).p_value

    assert (p <= GATE.alpha_review) == (combined > fold.review_above)
    assert (p <= GATE.alpha_reject) == (combined > fold.reject_above)
    assert fold.reject_above < fold.combined.edges[-1]


def test_a_class_with_its_own_images_is_shown_among_them() -> None:
    gate = replace(GATE, own_folds_b={3: OWN})

    assert calibration_histograms(gate, 3).fold.size == 50
    assert calibration_histograms(gate, 4).fold.size == 99
    assert calibration_histograms(gate).fold.size == 99
    assert sum(calibration_histograms(gate, 3).p_values.counts) == 149


def test_a_gate_whose_classes_all_have_their_own_images_has_a_histogram() -> None:
    nothing = FinalFold.marginal(np.empty(0))

    assert (
        calibration_histograms(replace(GATE, fold_b=nothing, own_folds_b={0: OWN})).fold.size == 50
    )


def test_equal_scores_make_a_histogram() -> None:
    gate = replace(GATE, fold_b=FinalFold.marginal(np.full(99, 2.0)))

    combined = calibration_histograms(gate).fold.combined

    assert sum(combined.counts) == 99
    assert (np.diff(combined.edges) > 0).all()
