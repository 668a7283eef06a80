"""The gate keeps its guarantee on 20,000 new rows; known wrong methods do not."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import betabinom, chi2, kstwo

from tests.unit.models.features import CLASSES, world
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting.conformal import (
    GateTarget,
    Scores,
    calibrate,
    combine,
    final_p_values,
    gate_file,
    missing_images,
    pac_p_values,
)
from tidegate.models.fitting.mahalanobis import fit_distance
from tidegate.models.sealing.gate_head import GateHead
from tidegate.service.ood.conformal import TailedFold, sample_size_for
from tidegate.service.ood.gates import Gate
from tidegate.service.ood.scores import energy_score

Float64 = NDArray[np.float64]
LABELS = tuple(map(str, range(CLASSES)))
NEW_ROWS = 20_000
ALPHAS = (0.01, 0.05, 0.2)
SCORES = ("energy", "mahalanobis")


@cache
def head() -> GateHead:
    """Fitted on few rows, so that it has learned them by heart."""
    return fit_distance(*world().draw(400, seed=10), LABELS).head()


def scores(features: NDArray[np.float32]) -> Scores:
    logits = world().logits(features)
    return Scores(
        values={
            "energy": energy_score(logits, 1.0),
            "mahalanobis": head().distance(features)[0],
        },
        predicted=logits.argmax(axis=1),
    )


@cache
def drawn(n: int, seed: int) -> Scores:
    return scores(world().draw(n, seed)[0])


def calibrated(fold_a: Scores, fold_b: Scores, target: GateTarget | None = None) -> Gate:
    return calibrate(fold_a, fold_b, CLASSES, target or GateTarget(), SCORES)


def of_one_class(given: Scores) -> Scores:
    """The same images, predicted alike, so that they share one fold B."""
    return Scores(given.values, np.zeros_like(given.predicted))


def interval(calibrated_on: int, alpha: float) -> tuple[float, float]:
    """99 % of how many of NEW_ROWS are refused, over calibration sets of this size and new rows."""
    k = int(alpha * (calibrated_on + 1) + 1e-9)
    low, high = betabinom(NEW_ROWS, k, calibrated_on + 1 - k).interval(0.99)
    return float(low), float(high)


def uniform_at(p: Float64, calibrated_on: int, level: float = 0.01) -> bool:
    """Kolmogorov–Smirnov: p-values that share a calibration set are as many as both allow."""
    size = round(len(p) * calibrated_on / (len(p) + calibrated_on))
    ordered = np.sort(p)
    steps = np.arange(1, len(p) + 1) / len(p)
    # A step of 1 / (n + 1) is the grid of p itself, not a deviation.
    distance = np.max(np.abs(steps - ordered)) - 1 / (calibrated_on + 1)
    return bool(kstwo.sf(distance, size) > level)


def predictions(gate: Gate, new: Scores) -> Float64:
    return final_p_values(gate, combine(gate.folds_a, gate.combination, new.values), new.predicted)


def test_new_rows_are_refused_at_the_declared_rate_and_p_values_are_uniform() -> None:
    n = 3000
    gate = calibrated(of_one_class(drawn(n, 11)), of_one_class(drawn(n, 12)))

    p = predictions(gate, of_one_class(drawn(NEW_ROWS, 13)))

    assert not gate.own_folds_b
    for alpha in ALPHAS:
        low, high = interval(n, alpha)
        assert low <= (p <= alpha).sum() <= high
    assert uniform_at(p, n)


def test_with_own_folds_each_class_is_rejected_at_the_declared_rate() -> None:
    gate = calibrated(drawn(9000, 11), drawn(9000, 12))
    new = drawn(NEW_ROWS, 13)

    p = predictions(gate, new)

    assert len(gate.own_folds_b) == CLASSES
    for c, fold in gate.own_folds_b.items():
        n, of_class = len(fold.combined), p[new.predicted == c]
        k = int(0.05 * (n + 1) + 1e-9)
        low, high = betabinom(len(of_class), k, n + 1 - k).interval(1 - 0.01 / CLASSES)
        assert low <= (of_class <= 0.05).sum() <= high
        assert uniform_at(of_class, n, 0.01 / CLASSES)


def test_one_shared_fold_treats_classes_unequally_and_own_folds_do_not() -> None:
    new = drawn(NEW_ROWS, 13)

    def spread(n: int, target: GateTarget) -> float:
        p = predictions(calibrated(drawn(n, 11), drawn(n, 12), target), new)
        rates = [np.mean(p[new.predicted == c] <= 0.2) for c in range(CLASSES)]
        return float(max(rates) - min(rates))

    assert spread(6000, GateTarget(0.2, 0.2)) < 0.5 * spread(6000, GateTarget(0.0005, 0.2))


def test_a_gate_calibrated_on_its_training_rows_breaks_the_promise() -> None:
    """The mistake: rows the distance was fitted on look more usual than any new one."""
    trained_on = scores(world().draw(400, seed=10)[0])
    half = slice(None, None, 2), slice(1, None, 2)
    folds = [trained_on.part(rows) for rows in half]
    gate = calibrated(folds[0], folds[1], GateTarget(0.05, 0.1))

    p = predictions(gate, drawn(NEW_ROWS, 13))

    low, high = interval(200, 0.05)
    assert not low <= (p <= 0.05).sum() <= high
    assert not uniform_at(p, 200)


def test_textbook_fisher_breaks_the_promise() -> None:
    """The mistake: −2·Σ log p is χ² with 4 degrees only if the two scores were independent."""
    fold_a, new = drawn(2000, 11), drawn(NEW_ROWS, 13)
    statistic = -2 * sum(
        TailedFold.of(np.sort(fold_a.values[name])).log_p(new.values[name]) for name in SCORES
    )

    p = chi2(4).sf(statistic)

    low, high = interval(2000, 0.01)
    assert not low <= (p <= 0.01).sum() <= high
    assert not uniform_at(p, 2000)


def test_either_fires_breaks_the_promise() -> None:
    fold_a, new = drawn(2000, 11), drawn(NEW_ROWS, 13)

    p = np.exp(
        np.minimum(*(TailedFold.of(np.sort(fold_a.values[s])).log_p(new.values[s]) for s in SCORES))
    )

    low, high = interval(2000, 0.01)
    assert not low <= (p <= 0.01).sum() <= high


@pytest.mark.lengthy
def test_a_pac_gate_keeps_its_alpha_for_most_calibration_sets() -> None:
    """With delta .1, at most a tenth of calibration sets may refuse more than alpha."""
    new, alpha, delta = drawn(NEW_ROWS, 13), 0.05, 0.1
    broken = {None: 0, delta: 0}
    for seed in range(60):
        fold_a, fold_b = (of_one_class(drawn(400, first + seed)) for first in (100, 200))
        for guarantee in broken:
            gate = calibrated(fold_a, fold_b, GateTarget(alpha, 0.2, guarantee))
            refused = np.mean(predictions(gate, of_one_class(new)) <= alpha)
            broken[guarantee] += bool(refused > alpha)

    assert broken[delta] <= 12  # Binomial(60, .1) is above with a chance of 1 %
    assert broken[None] >= 15


@pytest.mark.parametrize(("alpha", "delta"), [(0.01, None), (0.05, 0.05), (0.001, 0.1)])
def test_the_least_size_is_the_least_that_reaches_alpha(alpha: float, delta: float | None) -> None:
    n = sample_size_for(alpha, delta)

    def smallest(size: int) -> float:
        return 1 / (size + 1) if delta is None else float(pac_p_values(size, delta)[0])

    assert smallest(n) <= alpha * (1 + 1e-9) < smallest(n - 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 500), st.floats(0.01, 0.5))
def test_pac_p_values_rise_with_the_rank_and_lie_above_the_marginal_ones(
    n: int, delta: float
) -> None:
    table = pac_p_values(n, delta)

    assert np.all(np.diff(table) > 0)
    assert table[-1] == 1
    if delta <= 0.3:  # a Beta's mean is below its upper quantiles
        assert np.all(table[:-1] >= (1 + np.arange(n)) / (n + 1))


def test_arrays_are_judged_as_single_images_are() -> None:
    gate = calibrated(drawn(6000, 11), drawn(6000, 12))
    new = drawn(500, 14)

    p = predictions(gate, new)

    rows = zip(*new.values.values(), new.predicted, strict=True)
    assert p.tolist() == [gate.judge([float(e), float(m)], int(c)).p_value for e, m, c in rows]


def test_too_few_images_are_refused_with_the_number_needed() -> None:
    with pytest.raises(BuildRefused, match=r"needs 99 images in each .* Give 249 calibration"):
        calibrated(drawn(98, 1), drawn(98, 2))
    with pytest.raises(BuildRefused, match=r"delta 0\.05 needs 299 images"):
        calibrated(drawn(200, 1), drawn(200, 2), GateTarget(delta=0.05))


def test_a_calibration_image_with_a_score_that_is_not_finite_is_refused() -> None:
    fold_b = drawn(150, 2)
    broken = replace(fold_b, values={**fold_b.values, "energy": np.full(150, np.inf)})

    with pytest.raises(BuildRefused, match="energy score of a calibration image is not finite"):
        calibrated(drawn(150, 1), broken)


def test_a_rare_class_shares_its_fold_with_enough_others() -> None:
    """Other classes could have their own folds, but the rare one has too few images by itself."""
    common, rare = drawn(6000, 11), drawn(6000, 12)

    def thinned(given: Scores) -> Scores:
        keep = (given.predicted != 4) | (np.cumsum(given.predicted == 4) <= 20)
        return given.part(np.flatnonzero(keep))

    gate = calibrated(thinned(common), thinned(rare))

    assert 4 not in gate.own_folds_b
    assert 0 < len(gate.own_folds_b) < CLASSES - 1
    assert len(gate.fold_b.combined) >= 99


def test_images_beyond_fold_a_do_not_take_the_smallest_p_value_away() -> None:
    """They tied with every other extreme before the tail, so that nothing could be rejected."""
    fold_b = drawn(150, 2)
    beyond = replace(fold_b, values={**fold_b.values, "energy": fold_b.values["energy"] + 1e3})

    gate = calibrated(drawn(150, 1), beyond)

    assert gate.judge([1e6, 1e6], 0).p_value == 1 / 151
    assert gate.judge([math.nan, 0.0], 0).p_value == 1 / 151


def test_the_gate_s_file_contains_every_fold() -> None:
    target = GateTarget(delta=0.1)
    gate = calibrated(drawn(6000, 11), drawn(6000, 12), target)

    with np.load(io.BytesIO(gate_file(gate, target, embedding_mean=np.zeros(3)))) as arrays:
        stored = dict(arrays)

    assert stored["fold_b_sizes"].sum() == len(stored["combined_b"]) == 6000
    assert len(stored["p_by_rank_b"]) == 6000 + 1 + len(gate.own_folds_b)
    assert np.array_equal(stored["embedding_mean"], np.zeros(3))


def test_a_class_without_its_own_fold_lacks_the_images_that_would_give_it_one() -> None:
    fold_a, fold_b, target = drawn(600, 11), drawn(600, 12), GateTarget()
    gate = calibrated(fold_a, fold_b)

    missing = missing_images(fold_a, fold_b, CLASSES, target, gate.own_folds_b)

    assert not gate.own_folds_b
    for c in range(CLASSES):
        in_a = int((fold_a.predicted == c).sum())
        assert missing[c] >= (2 * 99 - in_a) / 0.4
    assert missing_images(fold_a, fold_b, CLASSES, target, range(CLASSES)) == (0,) * CLASSES
