from __future__ import annotations

import pytest

from tidegate.models.importers.similar import similar

KNOWN = ("resnet18", "resnet50", "mobilenetv3_small_100", "vit_base_patch16_224")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet-50", "resnet50"),
        ("ResNet50.a1_in1k", "resnet50"),
        ("mobilenet_v3_small_100", "mobilenetv3_small_100"),
        ("vit_base_patch16", "vit_base_patch16_224"),
    ],
)
def test_a_name_written_otherwise_finds_the_models_own(name: str, expected: str) -> None:
    assert similar(name, KNOWN).startswith(f"; similar: {expected}")


def test_nothing_is_said_if_nothing_is_similar() -> None:
    assert similar("qqqq", KNOWN) == ""
