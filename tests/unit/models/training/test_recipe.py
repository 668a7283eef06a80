"""Which recipe is chosen and why, and the stages that it has."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.models.errors import BuildRefused
from tidegate.models.training.config import read
from tidegate.models.training.recipe import Recipe, Stage, choose, plan


@pytest.mark.parametrize(
    ("pretrained", "images", "recipe"),
    [(True, 999, "probe"), (True, 1000, "staged"), (False, 10, "staged"), (False, 5000, "staged")],
)
def test_the_default_depends_on_the_weights_and_on_the_images(
    pretrained: bool, images: float, recipe: str
) -> None:
    choice = choose(None, pretrained, images)

    assert choice.recipe == recipe
    assert str(images if pretrained else "scratch") in choice.why


def test_what_is_asked_for_is_done() -> None:
    assert choose("full", True, 10).recipe == "full"


def test_a_probe_needs_weights() -> None:
    with pytest.raises(BuildRefused, match="give --weights"):
        choose("probe", False, 10)


def stages(recipe: Recipe = "staged", images: int = 5000, **given: Any) -> tuple[Stage, ...]:
    facts = {name: given.pop(name, False) for name in ("pretrained", "transformer")}
    return plan(recipe, read(None, {k.replace("__", "."): v for k, v in given.items()}),
                images=images, **facts)  # fmt: skip


def test_the_head_is_trained_first_and_then_all_layers_at_their_rates() -> None:
    head, everything = stages(pretrained=True)

    assert (head.name, head.head_only, head.epochs) == ("head", True, 4)
    assert (everything.name, everything.head_only) == ("all", False)
    assert (everything.backbone_rate, everything.layer_decay) == (0.1, None)


def test_a_transformer_has_a_rate_that_falls_from_layer_to_layer() -> None:
    *_, everything = stages(pretrained=True, transformer=True)

    assert (everything.backbone_rate, everything.layer_decay) == (1.0, 0.75)


def test_from_random_weights_there_is_one_stage_with_one_rate() -> None:
    (everything,) = stages(transformer=True)

    assert (everything.backbone_rate, everything.layer_decay) == (1.0, None)


def test_the_recipe_full_has_no_stage_of_the_head() -> None:
    assert [stage.name for stage in stages("full", pretrained=True)] == ["all"]


def test_two_stage_training_ends_with_a_balanced_head() -> None:
    natural, balanced = stages(imbalance__two_stage=True, imbalance__loss="focal")

    assert (natural.sampling, natural.loss, natural.balanced) == ("natural", "focal", False)
    assert (balanced.sampling, balanced.loss, balanced.head_only) == ("balanced", "plain", True)
    assert balanced.balanced


@pytest.mark.parametrize(
    ("setting", "value"),
    [("imbalance__loss", "logit-adjusted"), ("imbalance__sampling", "square-root")],
)
def test_a_remedy_for_rare_classes_chooses_the_epoch_by_all_classes_equally(
    setting: str, value: str
) -> None:
    given: dict[str, Any] = {setting: value}

    assert stages(**given)[0].balanced
    assert not stages()[0].balanced


def test_images_are_mixed_from_a_number_of_images_on() -> None:
    assert stages(preset="heavy", images=2000)[0].mixing
    assert not stages(preset="heavy", images=1999)[0].mixing
    assert not stages(images=1_000_000)[0].mixing
