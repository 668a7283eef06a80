"""Every score in the graph against its float64 reference, and against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tidegate.models.graphs.session import quiet_session
from tidegate.models.sealing.check import check_against_float64
from tidegate.models.sealing.gate_head import GateHead, head_graph
from tidegate.models.sealing.score_heads import ClippedEnergy, Entropy, Linear
from tidegate.service.ood.scores import (
    ENTROPY_CLASSES,
    ENTROPY_POWER,
    clipped_energy_score,
    entropy_score,
    linear_score,
)
from tidegate.service.types import Outputs

WIDTH = 16
Float32 = NDArray[np.float32]


def head(classes: int) -> GateHead:
    rng = np.random.default_rng(classes)
    return GateHead(
        energy_temperature=1.0,
        centre=np.zeros(WIDTH),
        whitening=None,
        means=rng.normal(size=(classes, WIDTH)),
        normalise=True,
        others={
            "entropy": Entropy(classes),
            "clipped_energy": ClippedEnergy(
                1.5, rng.normal(size=(classes, WIDTH)), rng.normal(size=classes)
            ),
            "drawn": Linear(rng.normal(size=WIDTH)),
        },
    )


def outputs(classes: int, gain: float = 1.0, n: int = 50) -> Outputs:
    rng = np.random.default_rng(1)
    logits = (gain * rng.normal(size=(n, classes))).astype(np.float32)
    features = rng.normal(size=(n, WIDTH)).astype(np.float32)
    session = quiet_session(head_graph(head(classes)))
    found = session.run(None, {"logits": logits, "features": features})
    return Outputs(logits, features, *found)


@pytest.mark.parametrize("classes", [2, 10, ENTROPY_CLASSES, ENTROPY_CLASSES + 1, 1000])
@pytest.mark.parametrize("gain", [0.01, 1.0, 30.0, 3000.0])
def test_float32_in_the_graph_follows_float64(classes: int, gain: float) -> None:
    found = outputs(classes, gain)

    assert found.scores.shape == (50, 5)
    check_against_float64(found, head(classes))  # raises beyond 1e-5


@pytest.mark.parametrize("column", range(5))
def test_a_changed_score_is_caught(column: int) -> None:
    found = outputs(10)
    found.scores[3, column] *= np.float32(1.001)

    with pytest.raises(Exception, match=f"{head(10).names[column]} by"):
        check_against_float64(found, head(10))


def test_the_entropy_is_a_sum_of_powers_of_the_largest_probabilities() -> None:
    logits = np.random.default_rng(2).normal(size=(1, 150))
    p = sorted((math.exp(value) for value in logits[0]), reverse=True)
    total = math.fsum(p)

    (score,) = entropy_score(logits)

    expected = math.fsum((value / total) ** ENTROPY_POWER for value in p[:ENTROPY_CLASSES])
    assert score == pytest.approx(expected, rel=1e-12)


def test_a_flat_distribution_has_more_entropy_than_a_confident_one() -> None:
    confident, flat = entropy_score(np.array([[30.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))

    assert confident < flat


def test_clipping_makes_a_large_feature_count_like_the_ceiling() -> None:
    weights, bias = np.eye(3), np.array([0.5, 0.0, -0.5])
    large, at_ceiling = np.array([[9.0, 1.0, -2.0]]), np.array([[2.0, 1.0, -2.0]])

    found = clipped_energy_score(large, 2.0, weights, bias)

    assert found == clipped_energy_score(at_ceiling, 2.0, weights, bias)
    logits = (2.5, 1.0, -2.5)
    assert found[0] == pytest.approx(-math.log(math.fsum(map(math.exp, logits))))


def test_the_linear_score_is_a_product() -> None:
    assert linear_score(np.array([[1.0, 2.0]]), np.array([3.0, -1.0])).tolist() == [1.0]


def test_a_head_without_some_classes_is_that_of_the_model_without_them() -> None:
    kept = np.arange(10) != 4
    found = outputs(10)
    smaller = head(10).with_classes(kept)

    scores, nearest = smaller.scores(found.logits[:, kept], found.features)

    whole, _ = head(10).scores(found.logits, found.features)
    assert len(smaller.means) == 9
    assert nearest.max() <= 8
    assert np.all(scores[:, 1] >= whole[:, 1])
    assert np.all(scores[:, [0, 3]] > whole[:, [0, 3]])  # a sum over fewer classes
    assert np.array_equal(scores[:, 4], whole[:, 4])
    assert smaller.names == head(10).names


def test_a_head_can_be_limited_to_the_scores_that_are_needed() -> None:
    assert head(10).with_scores(("drawn", "energy")).names == ("energy", "mahalanobis", "drawn")
