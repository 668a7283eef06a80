"""The two scores compared with their definitions, reimplemented without vectorisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tidegate.service.ood.scores import energy_score, mahalanobis_score

Float64 = NDArray[np.float64]
CLOSE = 1e-12  # relative; both sides are float64 sums of a few dozen numbers


def energy_by_definition(logits: list[float], temperature: float) -> float:
    """−T·log Σ exp(l / T), summed exactly after the usual shift by the largest."""
    top = max(logits)
    total = math.fsum(math.exp((value - top) / temperature) for value in logits)
    return -top - temperature * math.log(total)


def squared_distances(z: Float64, means: Float64, precision: NDArray[Any]) -> list[float]:
    """(z − μ)ᵀ Σ⁻¹ (z − μ) for every class, with the explicit inverse of the covariance."""
    return [float((z - mean) @ precision @ (z - mean)) for mean in means]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20),
    st.floats(0.05, 50),
)
def test_the_energy_is_the_free_energy(logits: list[float], temperature: float) -> None:
    (score,) = energy_score(np.array([logits]), temperature)

    assert score == pytest.approx(energy_by_definition(logits, temperature), rel=CLOSE, abs=1e-9)


def test_the_energy_of_huge_float32_logits_does_not_overflow() -> None:
    logits = np.array([[3e38, -3e38], [-3e38, -3e38]], np.float32)

    assert np.isfinite(energy_score(logits, 1.0)).all()


def test_confident_logits_have_a_lower_energy_than_flat_ones() -> None:
    confident, flat = energy_score(np.array([[12.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), 1.0)

    assert confident < flat


def test_a_nan_logit_gives_a_nan_energy_for_its_image_only() -> None:
    scores = energy_score(np.array([[1.0, np.nan], [1.0, 2.0]]), 1.0)

    assert np.isnan(scores).tolist() == [True, False]


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_distance_is_the_mahalanobis_distance_to_the_nearest_mean(
    seed: int, normalise: bool
) -> None:
    rng = np.random.default_rng(seed)
    features, centre, means = rng.normal(size=(11, 6)), rng.normal(size=6), rng.normal(size=(5, 6))
    spread = rng.normal(size=(40, 6))
    covariance = spread.T @ spread / 40
    precision = np.linalg.inv(covariance)
    whitening = np.linalg.cholesky(precision)  # W with W·Wᵀ = Σ⁻¹

    scores, nearest = mahalanobis_score(
        features, centre, whitening, means @ whitening, normalise=normalise
    )

    for row, feature in enumerate(features):
        z = feature - centre
        if normalise:
            z = z / math.sqrt(math.fsum(value * value for value in z))
        distances = squared_distances(z, means, precision)
        assert nearest[row] == distances.index(min(distances))
        assert scores[row] == pytest.approx(min(distances), rel=1e-9)


def test_without_whitening_it_is_the_euclidean_distance() -> None:
    scores, nearest = mahalanobis_score(
        np.array([[3.0, 4.0], [0.0, 1.0]]),
        np.zeros(2),
        None,
        np.array([[0.0, 0.0], [3.0, 0.0]]),
        normalise=False,
    )

    assert scores.tolist() == [16.0, 1.0]
    assert nearest.tolist() == [1, 0]


def test_normalising_makes_the_length_of_a_feature_vector_irrelevant() -> None:
    rng = np.random.default_rng(1)
    features, means = rng.normal(size=(4, 6)), rng.normal(size=(3, 6))

    short, _ = mahalanobis_score(features, np.zeros(6), None, means, normalise=True)
    long, _ = mahalanobis_score(1000 * features, np.zeros(6), None, means, normalise=True)

    assert short == pytest.approx(long, rel=CLOSE)


def test_a_feature_vector_at_the_centre_has_a_finite_distance() -> None:
    scores, _ = mahalanobis_score(np.ones((1, 2)), np.ones(2), None, np.eye(2), normalise=True)

    assert scores.tolist() == [1.0]
