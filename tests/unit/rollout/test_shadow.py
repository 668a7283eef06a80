"""The report of a shadow counts agreement and finds what differs, in bounded memory."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from tidegate.service.rollout.shadow import AnswerPair, Frequent, ShadowReport

SAME = AnswerPair("a", 1, 1, "accept", "accept", 0.9, 0.9)


def test_agreement_has_exact_intervals() -> None:
    report = ShadowReport()
    for i in range(50):
        report.observe(replace(SAME, shadow_class=2 if i < 3 else 1))
    for _ in range(4):
        report.observe(replace(SAME, shadow_decision="reject"))

    found = report.report()
    expected = binomtest(51, 54).proportion_ci(0.95, "exact")
    assert found["images"] == 54
    assert found["same_class"]["images"] == 51
    assert (found["same_class"]["low"], found["same_class"]["high"]) == pytest.approx(
        tuple(expected), abs=1e-9
    )
    assert found["same_decision"]["share"] == pytest.approx(50 / 54)
    assert found["decisions"] == [{"stable": "accept", "shadow": "reject", "images": 4}]
    assert found["disagreements"] == [{"stable": 1, "shadow": 2, "images": 3}]


def test_an_empty_report_knows_nothing() -> None:
    found = ShadowReport().report()

    assert found["same_class"] == {"images": 0, "share": None, "low": 0, "high": 1, "level": 0.95}
    assert found["most_different"] == []


def test_differences_are_counted_by_size() -> None:
    report = ShadowReport()
    for shadow in (0.9, 0.905, 0.89, 0.82, 0.1, 0.0):
        report.observe(replace(SAME, shadow_probability=shadow))

    differences = report.report()["probability_differences"]
    assert differences["edges"] == [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert differences["counts"] == [2, 1, 0, 1, 0, 0, 2]


def test_the_twenty_most_different_images_are_named() -> None:
    rng = np.random.default_rng(1)
    differences = rng.permutation(1000) / 1000
    report = ShadowReport()
    for i, difference in enumerate(differences.tolist()):
        report.observe(
            replace(SAME, image_id=str(i), stable_probability=difference, shadow_probability=0)
        )

    named = [int(one["image_id"]) for one in report.report()["most_different"]]
    assert named == np.argsort(-differences)[:20].tolist()


def test_near_duplicates_are_not_counted() -> None:
    report = ShadowReport()
    report.observe(SAME)
    report.observe(replace(SAME, duplicate=True, shadow_class=3))

    assert report.report()["images"] == 1
    assert report.report()["duplicates"] == 1
    assert report.report()["disagreements"] == []


def test_frequent_pairs_are_found_among_many() -> None:
    """A hundred thousand pairs of 10,000 classes, of which two are frequent."""
    rng = np.random.default_rng(2)
    pairs = rng.integers(0, 10_000, (100_000, 2))
    pairs[::50], pairs[25::100] = (1, 2), (3, 4)
    frequent = Frequent(1000)
    for pair in pairs.tolist():
        frequent.add((pair[0], pair[1]))

    exact = Counter(map(tuple, pairs.tolist()))
    assert len(frequent.counts) <= 1000
    assert frequent.missed <= len(pairs) / 1001
    for pair in ((1, 2), (3, 4)):
        assert exact[pair] - frequent.missed <= frequent.counts[pair] <= exact[pair]
    assert sorted(frequent.counts, key=frequent.counts.__getitem__)[-2:] == [(3, 4), (1, 2)]
