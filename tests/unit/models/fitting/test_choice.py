"""Choosing the scores that decide, in worlds in which the best choice is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from tidegate.models.data.outputs import NetworkOutputs
from tidegate.models.data.rows import Float32
from tidegate.models.fitting import synthetic_ood
from tidegate.models.fitting.candidates import DETECTOR, ceiling_of, with_candidates
from tidegate.models.fitting.choice import (
    Choice,
    cheapest,
    choose,
    class_groups,
    removed_classes,
)
from tidegate.models.fitting.detector import (
    cross_fitted,
    drawn_features,
    fit_detector,
)
from tidegate.models.graphs.last_layer import LastLayer
from tidegate.models.sealing.gate_head import GateHead

CLASSES, WIDTH = 6, 24
MEANS = 4 * np.eye(CLASSES, WIDTH)
DRAWN = 4 * np.eye(WIDTH)[CLASSES + 2]  # a direction in which no class differs


def outputs(features: Float32, gain: float = 2.0) -> NetworkOutputs:
    return NetworkOutputs((gain * features @ MEANS.T).astype(np.float32), features)


def around(centre: object, n: int, seed: int, spread: float = 1.0) -> Float32:
    rng = np.random.default_rng(seed)
    return (np.asarray(centre) + spread * rng.normal(size=(n, WIDTH))).astype(np.float32)


def images(n: int = 240, seed: int = 0) -> NetworkOutputs:
    return outputs(around(MEANS[np.arange(n) % CLASSES], n, seed))


def synthetic(drawn: float = 1.0, far: float = 0.0) -> dict[str, NetworkOutputs]:
    """Drawn kinds lie in one direction, patterns near zero."""
    found = {}
    for seed, kind in enumerate(synthetic_ood.FIT_KINDS, 100):
        pattern = synthetic_ood.KINDS[kind].group == synthetic_ood.PATTERNS
        centre = far * np.ones(WIDTH) if pattern else drawn * DRAWN + MEANS[seed % CLASSES]
        found[kind] = outputs(around(centre, 40, seed))
    return found


def plain_head() -> GateHead:
    return GateHead(1.0, np.zeros(WIDTH), None, MEANS, normalise=False)


def every_candidate(kinds: Mapping[str, NetworkOutputs]) -> GateHead:
    features = {kind: found.features for kind, found in kinds.items()}
    detector = fit_detector(images().features, drawn_features(features))
    layer = LastLayer(2 * MEANS, np.zeros(CLASSES))
    return with_candidates(plain_head(), ceiling_of(images().features), layer, detector)


@pytest.mark.lengthy
def test_the_detector_is_chosen_if_drawn_images_lie_in_a_direction_of_their_own() -> None:
    kinds = synthetic()

    choice = choose(every_candidate(kinds), images(), kinds)

    assert DETECTOR in choice.combination
    assert len(choice.combination) > 1  # it says nothing about removed classes
    assert choice.removed_classes[(DETECTOR,)] == pytest.approx(0.5, abs=0.1)


@pytest.mark.lengthy
def test_a_detector_of_what_does_not_differ_is_not_chosen() -> None:
    kinds = synthetic(drawn=0.0)

    choice = choose(every_candidate(kinds), images(), kinds)

    assert DETECTOR not in choice.combination
    assert choice.synthetic[(DETECTOR,)] < 0.65


def test_the_best_criterion_is_chosen_and_a_further_score_must_earn_its_place() -> None:
    both = {("energy",): 0.9, ("mahalanobis",): 0.8, ("energy", "mahalanobis"): 0.9019}
    better = both | {("energy", "mahalanobis"): 0.9021}

    assert Choice(both, {}).combination == ("energy",)
    assert Choice(better, {}).combination == ("energy", "mahalanobis")


def test_the_first_candidate_that_is_hardly_worse_than_the_best_is_the_cheapest() -> None:
    ranks = (64, 128, 256, None)

    assert cheapest(ranks, [0.90, 0.948, 0.9485, 0.95]) == 128
    assert cheapest(ranks, [0.90, 0.9479, 0.9485, 0.95]) == 256
    assert cheapest(ranks, [0.80, 0.85, 0.90, 0.95]) is None


def test_synthetic_images_and_removed_classes_count_the_same() -> None:
    choice = Choice({("energy",): 1.0, ("entropy",): 0.7}, {("energy",): 0.5, ("entropy",): 0.9})

    assert choice.combination == ("entropy",)
    assert choice.named == {"energy": 0.75, "entropy": 0.8}


def test_every_image_is_ood_once_when_its_class_is_removed() -> None:
    found = list(removed_classes(plain_head(), images()))

    assert len(found) == CLASSES
    assert np.sum([outside for _, outside in found], axis=0).tolist() == [1] * 240
    for values, outside in found:
        distance = values["mahalanobis"]
        assert distance[outside].mean() > 1.3 * distance[~outside].mean()


def test_similar_classes_are_removed_together() -> None:
    rng = np.random.default_rng(0)
    centres = 20 * rng.normal(size=(10, WIDTH))
    similar = np.arange(50) % 10

    groups = class_groups(centres[similar] + rng.normal(size=(50, WIDTH)))

    assert len(set(groups.tolist())) == 10
    assert all(len(set(groups[similar == g].tolist())) == 1 for g in range(10))


def test_with_two_classes_only_synthetic_images_are_measured() -> None:
    head = GateHead(1.0, np.zeros(WIDTH), None, MEANS[:2], normalise=False)
    two = NetworkOutputs(images().logits[:, :2], images().features)
    kinds = {k: NetworkOutputs(o.logits[:, :2], o.features) for k, o in synthetic().items()}

    choice = choose(head, two, kinds)

    assert choice.removed_classes == {}
    assert choice.criterion == choice.synthetic


@pytest.mark.lengthy
def test_a_detector_is_judged_on_images_that_it_has_not_seen() -> None:
    """With more features than images, a detector separates its own images perfectly."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 400)).astype(np.float32)
    kinds = {
        kind: rng.normal(size=(30, 400)).astype(np.float32) for kind in synthetic_ood.FIT_KINDS
    }
    own = fit_detector(features, drawn_features(kinds)).direction

    found = cross_fitted(features, kinds)

    assert (features @ own).max() < (kinds["pages"] @ own).mean()
    inside, outside = found["documents"].inside, found["documents"].outside["pages"]
    assert np.mean(outside[:, None] > inside) == pytest.approx(0.5, abs=0.12)


def test_the_detector_has_the_same_bits_in_whatever_order_a_library_adds() -> None:
    features = images().features
    drawn = drawn_features({kind: outputs.features for kind, outputs in synthetic().items()})
    order = np.random.default_rng(3).permutation(features.shape[1])

    first = fit_detector(features, drawn).direction
    again = fit_detector(features[:, order], drawn[:, order]).direction

    assert np.array_equal(again, first[order])
