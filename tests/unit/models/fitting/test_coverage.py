"""What a gate catches is measured on images that fitted nothing, and it must catch something."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tidegate.models.card.coverage import coverage_lines, coverage_section
from tidegate.models.data.outputs import NetworkOutputs
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting import synthetic_ood
from tidegate.models.fitting.conformal import GateTarget, calibrate
from tidegate.models.fitting.coverage import (
    CalibratedHead,
    LabelledOutputs,
    left_out_p_values,
    summarise,
)
from tidegate.models.fitting.coverage_floor import check_coverage, floor
from tidegate.models.fitting.fit import score_rows
from tidegate.models.sealing.gate_head import GateHead
from tidegate.service.bundle.evidence import Coverage
from tidegate.service.ood.gates import Gate

CLASSES, TARGET = 4, GateTarget(0.05, 0.1)


def labelled(per_class: int, seed: int, classes: int = CLASSES) -> LabelledOutputs:
    """Return images whose features are near their class's axis, far from the others."""
    rng = np.random.default_rng(seed)
    class_ids = np.repeat(np.arange(classes), per_class)
    features = np.eye(classes)[class_ids] + 0.05 * rng.normal(size=(len(class_ids), classes))
    outputs = NetworkOutputs(
        logits=np.asarray(8 * features, np.float32), features=np.asarray(features, np.float32)
    )
    return LabelledOutputs(outputs, class_ids)


def head(classes: int = CLASSES) -> GateHead:
    return GateHead(1.0, np.zeros(classes), None, np.eye(classes), normalise=False)


def calibrated(folds: tuple[LabelledOutputs, LabelledOutputs], classes: int) -> CalibratedHead:
    scores = [score_rows(head(classes), fold.outputs) for fold in folds]
    gate = calibrate(scores[0], scores[1], classes, TARGET, ("mahalanobis",))
    return CalibratedHead(head(classes), gate)


@cache
def gate() -> Gate:
    return calibrated((labelled(30, 0), labelled(30, 1)), CLASSES).gate


def coverage(caught: float) -> Coverage:
    """Return a coverage of which a share of every kind is rejected."""
    p = np.where(np.arange(20) < 20 * caught, 0.01, 0.9)
    kinds = [*synthetic_ood.KINDS, synthetic_ood.SHUFFLED]
    return summarise(dict.fromkeys(kinds, p), [], gate())


def test_images_of_a_class_that_is_left_out_are_caught_by_a_gate_without_it() -> None:
    folds = labelled(30, 0), labelled(30, 1)

    found = left_out_p_values(calibrated(folds, CLASSES), TARGET, folds, labelled(10, 2))

    assert [len(p) for p in found] == [10] * CLASSES
    assert all((p <= TARGET.alpha_reject).all() for p in found)


def test_the_gate_with_every_class_accepts_the_same_images() -> None:
    folds = labelled(30, 0), labelled(30, 1)

    p = calibrated(folds, CLASSES).p_values(labelled(10, 2).outputs)

    assert (p > TARGET.alpha_reject).mean() > 0.8


def test_a_group_without_test_images_is_not_measured() -> None:
    folds, some = (labelled(30, 0), labelled(30, 1)), labelled(10, 2)
    rows = some.class_ids > 0
    unseen = LabelledOutputs(some.outputs.part(rows), some.class_ids[rows])

    assert len(left_out_p_values(calibrated(folds, CLASSES), TARGET, folds, unseen)) == CLASSES - 1


@pytest.mark.parametrize(("classes", "per_class"), [(2, 30), (4, 6)], ids=["classes", "images"])
def test_nothing_is_left_out_if_too_little_remains(classes: int, per_class: int) -> None:
    folds = labelled(per_class, 0, classes), labelled(per_class, 1, classes)
    measured = calibrated(folds, classes)

    assert left_out_p_values(measured, TARGET, folds, labelled(10, 2, classes)) == []


def test_shares_count_the_images_at_or_below_each_alpha() -> None:
    p = np.array([0.01, 0.05, 0.07, 0.1, 0.11, 0.5, 0.6, 0.7, 0.8, 0.9])
    kinds = {
        "pages": p,
        "tables": np.full(10, 0.9),
        "icons": np.full(10, 0.01),
        "star charts": p,
    }

    found = summarise(kinds, [p, p], gate())

    pages, tables, *_ = found.kinds
    assert (pages.rejected.value, pages.caught.value) == (0.2, 0.4)
    assert (pages.in_fit, tables.in_fit) == (True, False)
    assert summarise({synthetic_ood.SHUFFLED: p}, [], gate()).kinds[0].in_fit
    assert found.groups["documents"].caught.value == 0.0  # pages took part in the fit
    assert found.groups["documents"].caught.images == 10
    assert found.groups["drawings"].caught.images == 20
    assert found.synthetic.caught.value == pytest.approx((0.0 + 0.7) / 2)  # of both groups
    assert found.left_out_classes is not None
    assert found.left_out_classes.groups == 2
    assert found.left_out_classes.rejected.images == 20


def test_a_gate_that_catches_no_more_than_chance_is_refused_unless_accepted() -> None:
    weak, sound = coverage(0.1), coverage(0.2)

    with pytest.raises(BuildRefused, match=r"catches 10\.0% .* floor is 15\.0%.*accept-weak-gate"):
        check_coverage(weak, TARGET.alpha_review, accept_weak=False)
    accepted = check_coverage(weak, TARGET.alpha_review, accept_weak=True)

    assert accepted.accepted_although_weak
    assert "do not rely on it" in coverage_section(accepted, TARGET.alpha_review)
    assert check_coverage(sound, TARGET.alpha_review, accept_weak=True) == sound
    assert floor(TARGET.alpha_review) > TARGET.alpha_review


@pytest.mark.parametrize(("caught", "warned"), [(0.4, True), (0.6, False)])
def test_a_weak_gate_is_announced_on_the_console_and_in_the_card(
    caught: float, *, warned: bool
) -> None:
    found = coverage(caught)

    assert any("WARNING" in line for line in coverage_lines(found)) is warned
    assert ("gate is weak" in coverage_section(found, TARGET.alpha_review)) is warned


def test_the_console_has_a_line_for_each_group_and_the_card_one_for_each_kind() -> None:
    found = coverage(0.6)
    console, card = coverage_lines(found), coverage_section(found, TARGET.alpha_review)

    assert len(console) == 2 + len(found.groups) + 1
    assert all(any(group in line for line in console) for group in found.groups)
    assert all(f"| {kind.name} | {kind.group} |" in card for kind in found.kinds)
