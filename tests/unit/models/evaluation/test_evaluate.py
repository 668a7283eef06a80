"""The numbers of an evaluation, on data with known results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tidegate.models.errors import BuildRefused
from tidegate.models.evaluation.evaluate import Scored, evaluate
from tidegate.models.evaluation.intervals import beta_share, mean_share, wilson_share
from tidegate.service.bundle.evidence import Confusion, Evaluation

RNG = np.random.default_rng(3)


def scored(
    predicted: list[int], truth: list[int] | None, classes: int = 3, above: float = 0.0
) -> Scored:
    n = len(predicted)
    logits = RNG.normal(0, 0.1, (n, classes)).astype(np.float32)
    logits[np.arange(n), predicted] += 5
    energy, mahalanobis, combined = RNG.normal(above, 1, (3, n))
    ids = None if truth is None else np.array(truth, np.int64)
    scores = {"energy": energy, "mahalanobis": mahalanobis}
    return Scored(logits, scores, combined, np.linspace(0.001, 1, n), ids)


def with_undefined(given: Scored, name: str) -> Scored:
    return replace(given, scores={**given.scores, name: UNDEFINED})


def result(test: Scored, ood: Mapping[str, Scored] | None = None, classes: int = 3) -> Evaluation:
    return evaluate(
        test, ood or {}, classes=classes, temperature=2.0, alpha_reject=0.01, alpha_review=0.05
    )


def test_counts_become_shares_with_their_intervals() -> None:
    found = result(scored([0, 0, 1, 1, 2, 0], [0, 0, 0, 1, 1, 1]))

    assert found.images == 6
    assert found.accuracy == wilson_share(3, 6)
    assert found.balanced_accuracy == mean_share(np.array([2, 1]), np.array([3, 3]))


def test_a_class_is_reported_as_its_definitions_say() -> None:
    first, second, third = result(scored([0, 0, 1, 1, 2, 0], [0, 0, 0, 1, 1, 1])).classes

    assert (first.precision, first.recall, first.f1) == (2 / 3, 2 / 3, 2 / 3)
    assert (second.precision, second.recall, second.f1) == (1 / 2, 1 / 3, 2 / 5)
    assert (third.images, third.precision, third.recall, third.f1) == (0, 0.0, None, None)
    assert third.rejected is None


def test_a_class_without_test_images_is_left_out_of_the_means() -> None:
    found = result(scored([0, 0, 1, 1], [0, 0, 1, 1]), classes=3)

    assert found.macro_f1 == found.balanced_accuracy.value == 1


def test_a_class_that_is_never_predicted_has_no_precision_and_an_f1_of_zero() -> None:
    found = result(scored([0, 0, 0, 2], [0, 1, 1, 2]))

    assert (found.classes[1].precision, found.classes[1].f1) == (None, 0)
    assert found.macro_f1 == pytest.approx((1 / 2 + 0 + 1) / 3)


def test_every_pair_is_listed_up_to_fifty_classes() -> None:
    found = result(scored([0, 0, 1, 1, 2, 0], [0, 0, 0, 1, 1, 1]))

    assert sum(pair.images for pair in found.confusions) == 6
    assert found.confusions[0] == Confusion(actual=0, predicted=0, images=2)


def test_beyond_fifty_classes_the_most_common_mistakes_are_listed() -> None:
    truth = [*range(60), *range(60), 7, 7, 7]
    predicted = [*range(60), *[(c + 1) % 60 for c in range(60)], 9, 9, 9]

    found = result(scored(predicted, truth, classes=60), classes=60)

    assert found.confusions[0] == Confusion(actual=7, predicted=9, images=3)
    assert len(found.confusions) == 50
    assert all(pair.actual != pair.predicted for pair in found.confusions)


def test_each_image_is_rejected_reviewed_or_accepted_as_the_service_decides() -> None:
    test = scored([0, 1] * 500, [0, 1] * 500)
    p = np.ones(1000)
    p[:7], p[7:20] = 0.01, 0.05  # at an alpha counts as under it
    inside, outside = replace(test, p_value=p), replace(test, p_value=p, class_ids=None)

    found = result(inside, {"same": outside})

    assert found.false_rejection == beta_share(7, 1000)
    assert found.false_review == beta_share(13, 1000)
    assert found.classes[0].rejected == 4 / 500
    assert found.ood[0].rejected == wilson_share(7, 1000)
    assert found.ood[0].reviewed == wilson_share(13, 1000)


def test_an_ood_set_is_separated_by_each_score() -> None:
    found = result(scored([0, 1] * 50, [0, 1] * 50), {"far": scored([0] * 40, None, above=100)})

    (report,) = found.ood
    assert report.name == "far"
    assert report.separation.keys() == {"energy", "mahalanobis", "combined"}
    assert all(s.auroc == 1 for s in report.separation.values())
    assert all(s.fpr95_keeping_inside == 0 for s in report.separation.values())
    assert all(s.fpr95_catching_outside == 0 for s in report.separation.values())


def test_probabilities_are_measured_before_and_after_scaling() -> None:
    found = result(scored([0, 1] * 50, [0, 1] * 50))

    assert (found.uncalibrated.temperature, found.calibrated.temperature) == (1, 2)
    assert (
        found.calibrated.nll > found.uncalibrated.nll
    )  # all are classified correctly, so lower confidence fits worse
    assert sum(b.images for b in found.calibrated.reliability) == 100


def test_logits_on_a_disk_give_what_logits_in_memory_give(tmp_path: Path) -> None:
    held = scored([0, 1, 2, 2] * 100, [0, 1, 2, 1] * 100)
    np.save(tmp_path / "logits.npy", held.logits)
    mapped: NDArray[np.float32] = np.load(tmp_path / "logits.npy", mmap_mode="r")
    on_disk = replace(held, logits=mapped)

    assert result(on_disk) == result(held)


def test_an_evaluation_survives_being_written_and_read() -> None:
    found = result(scored([0, 0, 1, 1, 2, 0], [0, 0, 0, 1, 1, 1]), {"far": scored([0] * 40, None)})

    assert Evaluation.model_validate_json(found.model_dump_json()) == found


UNDEFINED = np.array([0.0, np.nan])


@pytest.mark.parametrize(
    ("test", "ood", "why"),
    [
        (scored([], []), {}, "no labelled images"),
        (scored([0, 1], None), {}, "no labelled images"),
        (scored([0, 1], [2, 2]), {}, "Every test image is of class 2"),
        (scored([0, 1], [0, 3]), {}, "class id 3; ids must be from 0 to 2"),
        (scored([0, 1], [0, 1], classes=5), {}, "5 logits for 3 classes"),
        (scored([0, 1], [0, 1]), {"far": scored([], None)}, "OOD set 'far' has no images"),
        (
            scored([0, 1], [0, 1]),
            {"far": with_undefined(scored([0, 1], None), "energy")},
            "energy score of image 1",
        ),
        (
            with_undefined(scored([0, 1], [0, 1]), "mahalanobis"),
            {},
            "mahalanobis score of image 1 of the test split",
        ),
    ],
)
def test_meaningless_evaluations_are_rejected(
    test: Scored, ood: dict[str, Scored], why: str
) -> None:
    with pytest.raises(BuildRefused, match=why):
        result(test, ood)
