"""Whether training images are mirrored."""

from __future__ import annotations

import pytest

from tidegate.models.training.flips import flips

KEPT = ["cat", "dog"], ["lefty-screw", "nut"], ["0 %", "10 %"], ["a", "tree", "b", "house", "car"]
HANDED = ["turn_left", "turn_right"], ["Left", "up"], ["7", "12"], ["a", "b", "tree"], ["cw", "x y"]


@pytest.mark.parametrize("classes", KEPT)
def test_classes_without_a_side_are_mirrored(classes: list[str]) -> None:
    assert flips("auto", classes)[0]


@pytest.mark.parametrize("classes", HANDED)
def test_classes_with_a_side_are_not(classes: list[str]) -> None:
    mirrored, why = flips("auto", classes)

    assert not mirrored
    assert classes[0] in why


@pytest.mark.parametrize("setting", [True, False])
def test_the_setting_decides(setting: bool) -> None:
    assert flips(setting, ["left", "right"])[0] is setting
