"""Sets of classes are chosen by the images before, and not by a run that still goes on."""

import numpy as np

from tidegate.service.rollout.class_mix import ClassMix
from tidegate.service.rollout.groups import GROUP

CANARY = np.arange(GROUP) % 2 == 0


def mix_after(groups: int, margin: float = 0.05) -> ClassMix:
    """Return a mix of four classes; the canary predicts 1 and 3, the stable version 2 and 3."""
    mix = ClassMix(4, margin)
    classes = np.where(np.arange(GROUP) % 4 < 2, np.where(CANARY, 1, 2), 3)
    for _ in range(groups):
        mix.count(CANARY[None], classes[None])
    return mix


def test_the_sets_have_the_classes_that_differ() -> None:
    sets, placed, baseline = mix_after(10).sets(1.0)

    assert sets.T.tolist() == [[0, 1, 0, 0], [1, 1, 0, 1], [0, 1, 0, 0]]
    assert placed.all()
    assert baseline.tolist() == [0.25, 0.75, 0.25]


def test_the_last_group_does_not_choose() -> None:
    assert not mix_after(1).sets(1.0)[1].any()
    assert mix_after(2).sets(1.0)[1].any()


def test_dependent_images_need_a_larger_difference() -> None:
    """With the design effect the difference is within two standard errors."""
    sets, placed, _ = mix_after(3).sets(20.0)

    assert sets.T.tolist() == [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]]
    assert placed.tolist() == [False, False, True]


def test_a_difference_within_the_margin_is_no_bet() -> None:
    """The canary has half of its images in a class that the stable version never predicts."""
    assert mix_after(3, margin=0.4).sets(1.0)[1].all()
    assert not mix_after(3, margin=0.6).sets(1.0)[1].any()


def test_signals_are_alike_if_the_classes_are() -> None:
    signals = ClassMix(100, 0.05).signals(np.ones((1, GROUP)), np.arange(GROUP)[None] // 2)[0]

    assert np.array_equal(signals[::2], signals[1::2])
    assert set(signals.ravel().tolist()) == {-1.0, 1.0}
    assert abs(signals.mean()) < 0.3


def test_the_leading_classes_are_those_that_differ_most() -> None:
    leading = mix_after(2).leading()

    assert [one["class_id"] for one in leading] == [1, 2, 3]
    assert leading[0] == {"class_id": 1, "stable": 0.0, "canary": 0.5}
