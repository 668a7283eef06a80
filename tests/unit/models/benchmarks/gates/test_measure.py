"""The table of the scores that decide, and the classifier on the features of a frozen network."""

from __future__ import annotations

import re

import numpy as np

from tidegate.models.benchmarks.gates import probe
from tidegate.models.benchmarks.gates.measure import Row, tables
from tidegate.models.fitting.choice import Choice


def test_the_classifier_is_the_one_of_largest_likelihood() -> None:
    rng = np.random.default_rng(0)
    class_ids = rng.integers(0, 3, 3000)
    x = np.eye(3)[class_ids] + rng.normal(size=(3000, 3))  # log odds: the difference of features

    weights, bias = probe.fit_linear(x, class_ids, 3)

    slopes = weights - weights.mean(axis=0)
    np.testing.assert_allclose(slopes, np.eye(3) - 1 / 3, atol=0.1)
    np.testing.assert_allclose(bias - bias.mean(), 0, atol=0.1)


def test_the_difference_is_to_the_best_single_score_over_both_kinds_of_images() -> None:
    both = ("energy", "drawn")
    found = Choice(
        synthetic={("energy",): 0.8, ("drawn",): 0.96, both: 0.95},
        removed_classes={("energy",): 0.9, ("drawn",): 0.5, both: 0.89},
    )

    text = tables([Row("x", None, None, None, both, found, {})])

    assert re.search(
        r"\| energy \+ drawn \| 0\.9200 .* \| energy \| 0\.8500 .* \| \+0\.0700 \|", text
    )
