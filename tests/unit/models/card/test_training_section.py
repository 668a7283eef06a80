"""How the network was trained stands in the card, with its curves."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from tests.unit.models.card.test_card import card_data
from tidegate.models.card.card import model_card
from tidegate.models.card.card_data import TRAINING
from tidegate.models.card.plots import plots
from tidegate.models.training_record import Epoch, StageRecord, TrainingRecord

HEAD = [Epoch("head", n, 1e-3, 2.0 / n, 1.5 / n, 0.5, 0.45, 3.0) for n in (1, 2)]
ALL = [Epoch("all", n, 1e-4, 1.0 / n, 0.5 / n, 0.9, 0.85, 9.0) for n in (1, 2, 3)]
RECORD = TrainingRecord(
    recipe="staged",
    why="There are many images.",
    seed=7,
    images={"training": 4500, "choice of the epoch": 500},
    settings={"size": "32 × 32", "optimisation.rate": "0.001"},
    versions=("torch 2.13.0", "timm 1.0.31"),
    stages=(
        StageRecord("head", "the last layer alone", HEAD[1], 2, "all epochs done"),
        StageRecord("all", "all layers", ALL[2], 3, "no better epoch in 8"),
    ),
    epochs=(*HEAD, *ALL),
    kept="all",
    notes=("Images are not mirrored.",),
)


def test_recipe_seed_versions_stages_and_settings_are_named() -> None:
    card = model_card(replace(card_data(), training=RECORD))

    assert "Recipe staged, seed 7, with torch 2.13.0, timm 1.0.31. There are many images." in card
    assert "4,500 for training, 500 for choice of the epoch" in card
    assert "Images are not mirrored." in card
    assert "| head | the last layer alone | 2 (all epochs done) | 2 | 0.750 | 50.00 % |" in card
    assert "| all | all layers | 3 (no better epoch in 8) | 3 | 0.167 | 90.00 % |" in card
    assert "| optimisation.rate | 0.001 |" in card
    assert f"]({TRAINING})" in card


@pytest.mark.lengthy
def test_the_curves_are_drawn_with_the_stages_and_the_kept_epoch() -> None:
    drawn = plots(replace(card_data(), training=RECORD))[TRAINING]

    text = "".join(ElementTree.fromstring(drawn).itertext())  # noqa: S314  # made here
    assert "training loss" in text
    assert "balanced accuracy" in text


@pytest.mark.lengthy
def test_a_model_that_was_trained_elsewhere_has_no_such_section() -> None:
    assert "## Training" not in model_card(card_data())
    assert TRAINING not in plots(card_data())


def test_a_recipe_without_epochs_has_no_curves() -> None:
    probe = replace(RECORD, recipe="probe", stages=(), epochs=())
    data = replace(card_data(), training=probe)

    assert "## Training" in model_card(data)
    assert TRAINING not in data.plots
