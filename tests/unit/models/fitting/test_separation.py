"""The scores that decide are compared with each score on images that took no part in the choice."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.models.fitting.test_coverage import CLASSES, head, labelled
from tidegate.models.data.outputs import NetworkOutputs
from tidegate.models.fitting import synthetic_ood
from tidegate.models.fitting.coverage import LabelledOutputs
from tidegate.models.fitting.separation import separation

REPORT_KINDS = [kind for kind in synthetic_ood.KINDS if kind not in synthetic_ood.FIT_KINDS]


def far(images: int) -> NetworkOutputs:
    """Images far from every class whose largest logit is as usual."""
    outputs = labelled(images, 5, classes=1).outputs
    features = np.full((images, CLASSES), 5, np.float32)
    return NetworkOutputs(np.tile(np.asarray(8 * outputs.features), CLASSES), features)


def near(images: int) -> NetworkOutputs:
    return labelled(images, 6).outputs


def measured(**of_group: NetworkOutputs) -> dict[tuple[str, ...], float]:
    """Return the AUROC against synthetic images: those given by group, others far away."""
    synthetic = {
        kind: of_group.get(synthetic_ood.KINDS[kind].group, far(8)) for kind in REPORT_KINDS
    }
    both = ("energy", "mahalanobis")
    return separation(head(), both, labelled(30, 0), labelled(20, 1), synthetic).synthetic


def test_each_score_alone_and_the_combination_are_measured() -> None:
    found = measured()

    assert list(found) == [("energy",), ("mahalanobis",), ("energy", "mahalanobis")]
    assert found["mahalanobis",] == 1
    assert found["energy",] < 0.9


def test_each_group_of_kinds_counts_the_same() -> None:
    found = measured(drawings=near(8))  # two of the nine kinds, one of five groups

    assert found["mahalanobis",] == pytest.approx(0.8 + 0.2 * 0.5, abs=0.05)


def test_images_of_classes_that_are_left_out_are_told_from_the_others() -> None:
    kinds = dict.fromkeys(REPORT_KINDS, far(2))

    found = separation(head(), ("mahalanobis",), labelled(30, 0), labelled(20, 1), kinds)

    assert list(found.removed_classes) == [("energy",), ("mahalanobis",)]
    assert found.removed_classes["mahalanobis",] > 0.99


def test_a_single_group_of_classes_leaves_nothing_to_remove() -> None:
    kinds = dict.fromkeys(REPORT_KINDS, far(2))
    one = LabelledOutputs(near(8), np.zeros(8, np.int64))

    found = separation(head(), ("mahalanobis",), labelled(30, 0), one, kinds)

    assert not found.removed_classes
    assert found.criterion == found.synthetic
