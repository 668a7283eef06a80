"""Measures of probabilities, and the fit of the calibration temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tidegate.models.errors import BuildRefused
from tidegate.models.evaluation import probabilities as p
from tidegate.service.deciding import softmax

FLAT = 0.3


def drawn(n: int, classes: int, temperature: float, seed: int = 0) -> tuple[Any, Any]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (n, classes)).astype(np.float32)
    noise = rng.gumbel(size=logits.shape)  # the largest logit + Gumbel noise is a softmax draw
    return logits, (logits / temperature + noise).argmax(axis=1)


def calibration_at(
    logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float
) -> tuple[float, float]:
    predictions = p.score_predictions(logits, labels, temperature)
    return p.ece(predictions.confidence, predictions.predicted == labels), p.ece_noise_floor(
        predictions.confidence
    )


@pytest.mark.lengthy
@pytest.mark.parametrize("truth", [0.3, 1.0, 5.0])
def test_the_temperature_is_the_best_of_a_fine_grid(truth: float) -> None:
    logits, labels = drawn(1500, 6, truth)

    fitted = p.fit_temperature(logits, labels)

    # A grid of 1e-5 steps around the fit would miss a better minimum elsewhere: look widely first.
    wide = np.geomspace(0.01, 100, 400)
    best = wide[np.argmin([p.nll(logits, labels, t) for t in wide])]
    fine = best * np.exp(np.arange(-0.03, 0.03, 5e-5))
    best = fine[np.argmin([p.nll(logits, labels, t) for t in fine])]
    assert fitted == pytest.approx(best, rel=1e-4)


def test_the_temperature_that_made_the_labels_is_found_and_the_calibration_error_vanishes() -> None:
    logits, labels = drawn(20_000, 10, 2.0)

    fitted = p.fit_temperature(logits, labels)

    assert fitted == pytest.approx(2, rel=0.03)  # 20,000 images determine T to about 1 %
    before, floor_before = calibration_at(logits, labels, 1.0)
    after, floor_after = calibration_at(logits, labels, fitted)
    assert before > 10 * floor_before
    assert after <= floor_after


@pytest.mark.lengthy
@given(
    arrays(np.float32, (4, 5), elements=st.floats(-50, 50, width=32)),
    st.floats(*p.TEMPERATURES),
)
def test_scaling_never_changes_the_predicted_class(
    logits: NDArray[np.float32], temperature: float
) -> None:
    labels = np.zeros(4, np.int64)

    predictions = p.score_predictions(logits, labels, temperature)

    np.testing.assert_array_equal(
        predictions.predicted, p.score_predictions(logits, labels, 1.0).predicted
    )
    served = [softmax(row, temperature)[1] for row in logits]
    served_confidence = [row.max() for row in served]
    np.testing.assert_allclose(predictions.confidence, served_confidence, rtol=1e-13)
    assert all(row[c] == row.max() for row, c in zip(served, predictions.predicted, strict=True))


def test_losses_are_those_of_their_definitions() -> None:
    logits, labels = drawn(300, 7, 1.5)
    probability = np.array([softmax(row, 1.5)[1] for row in logits])
    truth = np.eye(7)[labels]

    # float64 throughout: rounding only
    assert p.nll(logits, labels, 1.5) == pytest.approx(
        -np.log(probability[truth == 1]).mean(), rel=1e-12
    )
    assert p.brier(logits, labels, 1.5) == pytest.approx(
        ((probability - truth) ** 2).sum(axis=1).mean(), rel=1e-12
    )


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn(500, 9, 1.0)
    whole = p.measured(p.score_predictions(logits, labels, 1.0), labels, 1.0)

    monkeypatch.setattr(p, "_CHUNK_VALUES", 9 * 7)
    parts = p.measured(p.score_predictions(logits, labels, 1.0), labels, 1.0)

    assert parts == whole
    assert p.nll(logits, labels, 1.0) == pytest.approx(whole.nll, rel=1e-12)


def test_extreme_logits_give_finite_losses() -> None:
    logits = np.array([[3e38, -3e38], [-3e38, 3e38]], np.float32)

    predictions = p.score_predictions(logits, np.array([1, 1]), 0.001)

    assert np.isfinite(predictions.nll).all()
    assert predictions.confidence.tolist() == [1, 1]


@pytest.mark.lengthy
@given(
    st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.5001, 0.9, 1.0]), st.booleans()), min_size=1),
    st.randoms(),
)
def test_the_calibration_error_does_not_depend_on_the_images_order(
    pairs: list[tuple[float, bool]], random: Any
) -> None:
    mixed = random.sample(pairs, len(pairs))

    def of(rows: list[tuple[float, bool]]) -> tuple[float, object]:
        confidence, correct = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
        return p.ece(confidence, correct), p.reliability(confidence, correct)

    assert of(mixed) == of(pairs)


def test_bins_have_equal_sizes_without_ties() -> None:
    confidence = np.random.default_rng(0).permutation(np.linspace(0.1, 1, 150))

    bins = p.reliability(confidence, confidence > FLAT)

    assert [b.images for b in bins] == [10] * 15
    assert [b.confidence for b in bins] == sorted(b.confidence for b in bins)


def test_images_of_equal_confidence_share_one_bin() -> None:
    confidence = np.array([FLAT] * 90 + [1.0] * 10)
    correct = np.array([True] * 45 + [False] * 45 + [True] * 10)

    assert [b.images for b in p.reliability(confidence, correct)] == [90, 10]
    assert p.ece(confidence, correct) == pytest.approx(0.9 * abs(0.5 - FLAT))


@pytest.mark.lengthy
def test_perfect_probabilities_are_under_the_floor_95_percent_of_the_time() -> None:
    rng = np.random.default_rng(0)
    under = []
    for seed in range(400):
        confidence = rng.uniform(0.3, 1, 300)
        correct = rng.random(300) < confidence
        floor = p.ece_noise_floor(confidence, seed=seed)
        under.append(p.ece(confidence, correct) <= floor)

    assert abs(np.mean(under) - 0.95) <= 4 * 0.0109  # 4 standard errors of 400 draws


def test_the_floor_is_the_same_every_time() -> None:
    confidence = np.random.default_rng(1).uniform(0.3, 1, 100)

    assert p.ece_noise_floor(confidence) == p.ece_noise_floor(confidence[::-1])


@pytest.mark.parametrize(
    ("logits", "labels", "why"),
    [
        ([[2, 1], [1, 2], [3, 1]], [0, 1, 0], "All 3 calibration images"),
        ([[2, 1], [1, 2], [3, 1]], [1, 0, 1], "class folders and class ids agree"),
        ([[1e6, 0], [0, 1e6], [1e6, 0]], [0, 1, 1], "the bounds of the search"),
        ([[np.nan, 1], [1, 2]], [0, 1], "not finite"),
        (np.empty((0, 2)), [], "no calibration images to fit"),
    ],
)
def test_a_meaningless_temperature_is_rejected(logits: Any, labels: Any, why: str) -> None:
    with pytest.raises(BuildRefused, match=why):
        p.fit_temperature(np.array(logits, np.float32), np.array(labels, np.int64))
