"""Which recipe, and which stages it has. Pure: no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tidegate.models.errors import BuildRefused
from tidegate.models.training.config import Loss, Sampling, TrainConfig

Recipe = Literal["probe", "staged", "full"]
RECIPES: tuple[Recipe, ...] = ("probe", "staged", "full")
ZERO_SHOT = "zero-shot"  # a last layer from text, which is no training
PROBE_BELOW = 1000  # training images a class
_LAYER_DECAY = 0.75  # of transformers, as for fine-tuning BEiT and MAE


@dataclass(frozen=True, slots=True)
class Choice:
    """A recipe and a sentence why."""

    recipe: Recipe
    why: str


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training with its own parameters, optimiser and schedule."""

    name: Literal["head", "all", "balanced head"]
    words: str
    epochs: int
    head_only: bool
    backbone_rate: float  # × the rate of the head
    layer_decay: float | None
    sampling: Sampling
    loss: Loss
    balanced: bool  # whether classes count equally in the choice of the epoch
    mixing: bool


def choose(asked: Recipe | None, pretrained: bool, images_per_class: float) -> Choice:
    """Return the recipe that was asked for, or the default. Raises BuildRefused for a vain one."""
    if asked == "probe" and not pretrained:
        raise BuildRefused(
            "--recipe probe trains a linear layer on a trained backbone: give --weights FILE."
        )
    if asked is not None:
        return Choice(asked, f"The recipe {asked} was asked for.")
    if not pretrained:
        return Choice("staged", "Without --weights the whole network is trained from scratch.")
    if images_per_class < PROBE_BELOW:
        return Choice(
            "probe",
            f"With {images_per_class:.0f} training images a class, fewer than {PROBE_BELOW:,}, a "
            "linear layer on the frozen backbone is usually as good as training all layers, and "
            "takes a fraction of the time; --recipe staged trains all layers.",
        )
    return Choice(
        "staged",
        f"With {images_per_class:.0f} training images a class, at least {PROBE_BELOW:,}, training "
        "all layers is usually better than a linear layer on the frozen backbone.",
    )


def plan(
    recipe: Recipe, config: TrainConfig, *, pretrained: bool, transformer: bool, images: int
) -> tuple[Stage, ...]:
    """Return the stages of a recipe that trains layers, in order.

    `images` is the number of training images. A network without trained weights has no use for a
    stage of its head alone, nor for a smaller rate of its backbone.
    """
    chosen, loss = config.imbalance, config.imbalance.loss
    balanced = chosen.sampling != "natural" or loss not in ("plain", "focal")
    mixing = images >= config.mixing.least_images and config.mixing.mixup + config.mixing.cutmix > 0
    decay = config.optimisation.layer_decay or (_LAYER_DECAY if transformer else None)
    share = 1.0 if not pretrained or decay else config.optimisation.backbone_rate
    stages = []
    if recipe == "staged" and pretrained and config.stages.head:
        stages.append(
            Stage(
                "head", "the last layer alone, on the trained backbone", config.stages.head, True,
                1.0, None, chosen.sampling, loss, balanced, False,
            )
        )  # fmt: skip
    stages.append(
        Stage(
            "all", _all_words(pretrained, decay, share), config.stages.full, False,
            share, decay if pretrained else None, chosen.sampling, loss, balanced, mixing,
        )
    )  # fmt: skip
    if chosen.two_stage and config.stages.balanced_head:
        stages.append(
            Stage(
                "balanced head", "the last layer alone, every class equally often",
                config.stages.balanced_head, True, 1.0, None, "balanced", "plain", True, False,
            )
        )  # fmt: skip
    return tuple(stages)


def _all_words(pretrained: bool, decay: float | None, share: float) -> str:
    if not pretrained:
        return "all layers, from random weights"
    if decay:
        return f"all layers, the rate falling by {decay:g} from layer to layer towards the input"
    return f"all layers, the backbone at {share:g} of the head's rate"
