"""The table of the scores that decide, and the classifier on the features of a frozen network."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tidegate.models.benchmarks.gates import probe
from tidegate.models.benchmarks.gates.measure import FORMER, USUAL, Row, on_real_images
from tidegate.models.benchmarks.gates.report import figures, tables
from tidegate.models.fitting.choice import Choice
from tidegate.models.fitting.conformal import Scores


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

    text = tables([figures(Row("x", None, None, None, both, found, {}))])

    assert re.search(
        r"\| energy \+ drawn \| 0\.9200 .* \| energy \| 0\.8500 .* \| \+0\.0700 \|", text
    )


def test_real_images_are_flagged_more_often_by_a_score_that_knows_them() -> None:
    rng = np.random.default_rng(0)

    def scores(images: int, drawn: float = 0.0) -> Scores:
        values = {name: rng.normal(size=images) for name in (*FORMER, "drawn")}
        values["drawn"] += drawn
        return Scores(values, np.zeros(images, np.int64))

    usual = [scores(n) for n in (150, 150, 100)]

    found = on_real_images(usual, {"icons": scores(60, 5.0)}, ("drawn",), 1)

    assert found[USUAL] == pytest.approx((0.05, 0.05), abs=0.01)
    former, now = found["icons"]
    assert former < 0.2
    assert now > 0.9
    choice = Choice({("drawn",): 0.9}, {})
    text = tables([figures(Row("x", None, None, None, ("drawn",), choice, {}, found))])
    assert re.search(r"\| bundle \| photographs \| icons \|\n.*\n\| x \| \d.* → \d.* % \|", text)
