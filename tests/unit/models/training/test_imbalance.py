"""Weights, samples and sentences for classes of unequal size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tidegate.models.training.config import Imbalance, Loss, Sampling
from tidegate.models.training.imbalance import (
    advice,
    class_weights,
    draw,
    log_priors,
    sampling_weights,
)

COUNTS = (1000, 100, 10)
CLASS_IDS = np.repeat(np.arange(3), COUNTS)


def test_weights_are_inverse_to_the_number_of_images() -> None:
    weights = class_weights(COUNTS, Imbalance(loss="weighted"))

    assert weights is not None
    assert weights[2] / weights[0] == pytest.approx(100)
    assert weights @ COUNTS == pytest.approx(sum(COUNTS))  # mean 1 over the images


def test_weights_are_inverse_to_the_effective_number() -> None:
    weights = class_weights(COUNTS, Imbalance(loss="class-balanced", beta=0.99))

    assert weights is not None
    effective = [(1 - 0.99**n) / (1 - 0.99) for n in COUNTS]
    assert weights[2] / weights[0] == pytest.approx(effective[0] / effective[2])


@pytest.mark.parametrize("loss", ["plain", "focal", "logit-adjusted"])
def test_other_losses_weigh_all_classes_equally(loss: Loss) -> None:
    assert class_weights(COUNTS, Imbalance(loss=loss)) is None


def test_logits_are_adjusted_by_the_logarithm_of_the_share() -> None:
    priors = log_priors(COUNTS, Imbalance(loss="logit-adjusted", tau=2.0))

    assert priors is not None
    assert priors[1] == pytest.approx(2 * math.log(100 / 1110))
    assert log_priors(COUNTS, Imbalance()) is None


def test_logits_are_adjusted_by_the_shares_of_the_images_that_are_drawn() -> None:
    chosen = Imbalance(loss="logit-adjusted", sampling="balanced")

    assert log_priors(COUNTS, chosen) == pytest.approx([math.log(1 / 3)] * 3)


ROOTS = np.sqrt(COUNTS)
SHARES: dict[Sampling, list[float]] = {
    "natural": [1000 / 1110, 100 / 1110, 10 / 1110],
    "square-root": list(ROOTS / ROOTS.sum()),
    "balanced": [1 / 3, 1 / 3, 1 / 3],
}


@pytest.mark.parametrize("sampling", SHARES)
def test_classes_are_drawn_at_these_rates(sampling: Sampling) -> None:
    draws = np.concatenate([draw(CLASS_IDS, COUNTS, sampling, [0, epoch]) for epoch in range(40)])

    measured = np.bincount(CLASS_IDS[draws], minlength=3) / len(draws)
    assert sampling_weights(COUNTS, sampling) == pytest.approx(SHARES[sampling])
    assert measured == pytest.approx(SHARES[sampling], abs=0.01)  # 4 σ are 0.0095


def test_natural_sampling_visits_each_image_once() -> None:
    order = draw(CLASS_IDS, COUNTS, "natural", [0, 1])

    assert sorted(order) == list(range(1110))
    assert list(order) == list(draw(CLASS_IDS, COUNTS, "natural", [0, 1]))
    assert list(order) != list(draw(CLASS_IDS, COUNTS, "natural", [0, 2]))


def test_unequal_classes_are_pointed_out() -> None:
    assert advice((90, 10), Imbalance()) == ()
    (ratio, remedy) = advice((100, 10), Imbalance())
    assert "10 times" in ratio
    assert "logit-adjusted" in remedy
    assert len(advice((100, 10), Imbalance(two_stage=True))) == 1
    twice = Imbalance(loss="weighted", sampling="balanced")
    assert "their effects multiply" in advice((100, 10), twice)[1]
    assert "anomalies" in advice((1010, 10), Imbalance(loss="weighted"))[1]
    assert len(advice((1000, 10), Imbalance(loss="weighted"))) == 1
