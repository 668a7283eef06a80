"""A linear layer on features, chosen by cross-validation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tidegate.models.errors import BuildRefused
from tidegate.models.training.linear_head import fit_head

Features = NDArray[np.float32]


def clouds(counts: list[int], seed: int, apart: float = 2.0) -> tuple[Features, NDArray[np.int64]]:
    """Return features [n, 8] of classes that overlap, and the class of each."""
    centres = apart * np.eye(8)[: len(counts)]
    ids = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(seed).normal(size=(len(ids), 8))
    return (centres[ids] + noise).astype(np.float32), ids


def balanced_accuracy(logits: NDArray[np.floating], ids: NDArray[np.int64]) -> float:
    right = logits.argmax(axis=1) == ids
    return float(np.mean([right[ids == c].mean() for c in np.unique(ids)]))


@pytest.mark.lengthy
def test_it_separates_the_classes_and_says_what_cross_validation_found() -> None:
    head = fit_head(*clouds([60, 60, 60], 0), 3)

    test, ids = clouds([300, 300, 300], 1)
    accuracy = (head.logits(test).argmax(axis=1) == ids).mean()
    assert head.balance == "natural"
    assert set(head.validated) == {"natural"}
    assert accuracy == pytest.approx(head.validated["natural"].accuracy, abs=0.08)
    assert accuracy > 0.8


def test_two_classes_get_a_logit_each() -> None:
    head = fit_head(*clouds([40, 40], 0), 2)

    assert head.weights.shape == (2, 8)
    np.testing.assert_allclose(head.weights.sum(axis=0), 0, atol=1e-9)


@pytest.mark.lengthy
def test_imbalance_from_ten_to_one_is_handled_if_that_is_better() -> None:
    head = fit_head(*clouds([150, 150, 12], 0), 3)

    test, ids = clouds([500, 500, 500], 1)
    natural = head.validated["natural"].balanced_accuracy
    assert set(head.validated) == {"natural", "balanced", "logit-adjusted"}
    assert head.balance != "natural"
    assert head.validated[head.balance].balanced_accuracy > natural + 0.05
    assert balanced_accuracy(head.logits(test), ids) > natural + 0.05


@pytest.mark.lengthy
def test_logit_adjustment_moves_the_bias_by_the_log_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    features, ids = clouds([200, 20], 3)
    head = fit_head(features, ids, 2)
    monkeypatch.setattr("tidegate.models.training.linear_head.IMBALANCED", 1000)
    plain = fit_head(features, ids, 2)

    assert (head.balance, plain.balance) == ("logit-adjusted", "natural")
    np.testing.assert_allclose(plain.bias - head.bias, np.log([10 / 11, 1 / 11]))


def test_the_same_seed_gives_the_same_layer() -> None:
    first, again = (fit_head(*clouds([30, 30], 0), 2, seed=1) for _ in range(2))

    np.testing.assert_array_equal(first.weights, again.weights)


def test_a_class_with_one_image_is_refused() -> None:
    with pytest.raises(BuildRefused, match="Class 1 has 1 training images"):
        fit_head(*clouds([20, 1], 0), 2)
