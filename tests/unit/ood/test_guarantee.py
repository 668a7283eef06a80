"""The guarantee on simulated data: at most alpha of in-distribution images are rejected.

Every trial draws new calibration folds and one new input, all exchangeable, so the number of
rejections is binomial with a probability of at most alpha. The limit is its 99.9 % quantile.
Two simpler methods exceed it, which shows that this check can fail.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, lgamma, log

import numpy as np
import pytest
from numpy.typing import NDArray

from tidegate.service.ood.conformal import TailedFold
from tidegate.service.ood.gates import FinalFold, Gate, combined_score

pytestmark = pytest.mark.lengthy

ALPHAS = (0.01, 0.05, 0.2)
TRIALS = 6000
SCORES = ("energy", "mahalanobis")
FOLD = 199
Float64 = NDArray[np.float64]
Trial = Callable[[np.random.Generator], float]


def scores_of(count: int, rng: np.random.Generator) -> tuple[Float64, Float64]:
    """Return two dependent, skewed scores of `count` in-distribution images."""
    shared = rng.normal(size=count)
    energy = np.exp(shared + 0.8 * rng.normal(size=count))
    return energy, 0.5 * shared + rng.normal(size=count)


def gate_of(
    fold_a: tuple[Float64, Float64], fold_b: tuple[Float64, Float64], alphas: tuple[float, float]
) -> Gate:
    """The service's method: fold A for each score, fold B for the sum of their −log p."""
    folds_a = {
        name: TailedFold.of(np.sort(scores)) for name, scores in zip(SCORES, fold_a, strict=True)
    }
    log_p = [fold.log_p(scores) for fold, scores in zip(folds_a.values(), fold_b, strict=True)]
    return Gate(folds_a, SCORES, FinalFold.marginal(np.sort(combined_score(log_p))), *alphas)


def gated(rng: np.random.Generator) -> float:
    gate = gate_of(scores_of(FOLD, rng), scores_of(FOLD, rng), (0.01, 0.05))
    return gate.judge([float(score[0]) for score in scores_of(1, rng)], 0).p_value


def either_fires(rng: np.random.Generator) -> float:
    """A simpler method: reject if either p-value is small, without calibrating the minimum."""
    pairs = zip(scores_of(FOLD, rng), scores_of(1, rng), strict=True)
    return min(exp(TailedFold.of(np.sort(a)).log_p(float(new[0]))) for a, new in pairs)


def calibrated_on_training_features(rng: np.random.Generator) -> float:
    """A simpler method: fit the mean and covariance on the calibration images."""
    train, fresh = rng.normal(size=(110, 40)), rng.normal(size=(1, 40))
    centre, precision = train.mean(axis=0), np.linalg.inv(np.cov(train.T))

    def distance(features: Float64) -> Float64:
        z = features - centre
        return np.asarray((z @ precision * z).sum(axis=1))

    fold = FinalFold.marginal(np.sort(distance(train)))
    return float(fold.p_values(distance(fresh))[0])


def most_refusals(alpha: float, trials: int) -> int:
    """Return the 99.9 % quantile of Binomial(trials, alpha)."""

    def probability(k: int) -> float:
        ways = lgamma(trials + 1) - lgamma(k + 1) - lgamma(trials - k + 1)
        return exp(ways + k * log(alpha) + (trials - k) * log(1 - alpha))

    total, k = probability(0), 0
    while total < 0.999:
        k += 1
        total += probability(k)
    return k


def refusals(trial: Trial, trials: int) -> dict[float, int]:
    rng = np.random.default_rng(2026)
    p = np.array([trial(rng) for _ in range(trials)])
    return {alpha: int((p <= alpha).sum()) for alpha in ALPHAS}


def test_at_most_alpha_of_in_distribution_images_is_rejected() -> None:
    refused = refusals(gated, TRIALS)

    for alpha in ALPHAS:
        assert refused[alpha] <= most_refusals(alpha, TRIALS)
    assert refused[0.2] > 0.1 * TRIALS  # the method does reject images


@pytest.mark.parametrize(
    ("shortcut", "trials"),
    [(either_fires, TRIALS), (calibrated_on_training_features, 600)],
)
def test_simpler_methods_break_the_guarantee(shortcut: Trial, trials: int) -> None:
    refused = refusals(shortcut, trials)

    for alpha in ALPHAS:
        assert refused[alpha] > most_refusals(alpha, trials)


def test_the_guarantee_holds_for_one_calibration_set_within_its_beta_spread() -> None:
    rng, trials, alpha = np.random.default_rng(5), 4000, 0.05
    gate = gate_of(scores_of(999, rng), scores_of(999, rng), (alpha, 0.5))

    fresh = zip(*scores_of(trials, rng), strict=True)
    refused = sum(gate.judge([float(e), float(m)], 0).decision == "reject" for e, m in fresh)

    # Given the calibration, the rate is Beta(k, n + 1 − k) with k = 50: its spread is .0069; with
    # the binomial's .0034 that is .0077, and 3.1 of them cover 99.9 %.
    assert abs(refused / trials - alpha) < 3.1 * 0.0077
