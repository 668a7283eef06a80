"""The settings of a training: presets, a file and options, and what is wrong with them."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest

from tidegate.models.errors import BuildRefused
from tidegate.models.training.config import PRESETS, TrainConfig, names, parse_options, read


def test_a_file_overrides_the_preset_and_an_option_the_file(tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text('preset = "heavy"\nseed = 3\n[augmentation]\nerasing = 0.5\ncolour = 0.1\n')

    config = read(file, {"augmentation.colour": 0.3, "optimisation.rate": 1e-4})

    assert (config.preset, config.seed) == ("heavy", 3)
    assert config.augmentation.policy == "rand"  # of the preset
    assert config.augmentation.erasing == 0.5  # of the file
    assert config.augmentation.colour == 0.3  # of the option
    assert config.optimisation.rate == 1e-4


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid(preset: str) -> None:
    assert read(None, {"preset": preset}).preset == preset


def test_the_presets_differ_only_in_what_is_done_to_images() -> None:
    same = {"preset": "medium", "augmentation": {}, "mixing": {}}

    for preset in PRESETS:
        config = read(None, {"preset": preset})
        assert {**config.model_dump(), **same} == {**TrainConfig().model_dump(), **same}


def test_options_are_toml_values_or_text() -> None:
    options = parse_options(["a.b=0.5", "c=[1, 2]", "preset=heavy", "d = true"])

    assert options == {"a.b": 0.5, "c": [1, 2], "preset": "heavy", "d": True}


MISTAKES = {
    "an unknown setting": ({"optimisation.rte": 1}, "optimisation.rte is unknown; similar: opti"),
    "a setting of another table": (
        {"patience": 1},
        "patience is unknown; similar: stages.patience",
    ),
    "an unknown table": ({"augment": {"flip": True}}, "augment is unknown"),
    "a value out of bounds": ({"mixing.mixup": -1}, "mixing.mixup is -1: input should be greater"),
    "an unknown word": ({"imbalance.loss": "focl"}, "imbalance.loss is 'focl': input should be"),
    "one of two types": ({"augmentation.flip": "maybe"}, "augmentation.flip is 'maybe'"),
    "a list for the preset": ({"preset": ["heavy"]}, "The setting preset is ['heavy']"),
    "no number": ({"optimisation.rate": math.nan}, "optimisation.rate is nan"),
    "a table for a value": ({"seed.x": 1}, "The setting seed is {'x': 1}"),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_explained(options: dict[str, object], message: str) -> None:
    with pytest.raises(BuildRefused) as refused:
        read(None, options)

    assert message in str(refused.value)


def test_a_value_is_no_table() -> None:
    with pytest.raises(BuildRefused, match=r"seed.x is unknown: seed is a value"):
        read(None, {"seed": 1, "seed.x": 2})


@pytest.mark.parametrize("word", ["rate", "=1", "rate="])
def test_a_malformed_option_is_named(word: str) -> None:
    with pytest.raises(BuildRefused, match=f"--set {word}: give NAME=VALUE"):
        parse_options([word])


def test_a_value_that_toml_cannot_hold_is_text() -> None:
    for text in ("9" * 5000, "[" * 100_000):
        assert parse_options([f"seed={text}"]) == {"seed": text}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = ")

    with pytest.raises(BuildRefused, match=r"--config .*broken.toml is not TOML"):
        read(broken, {})
    for text in ("[" * 100_000, "seed = " + "[" * 100_000, "seed = " + "9" * 5000):
        broken.write_text(text)
        with pytest.raises(BuildRefused, match=r"--config .*broken.toml is not TOML"):
            read(broken, {})
    with pytest.raises(BuildRefused, match=r"--config .*none.toml cannot be read"):
        read(tmp_path / "none.toml", {})


def test_every_setting_can_be_given_as_an_option() -> None:
    default = TrainConfig()

    def value(name: str) -> object:
        return functools.reduce(getattr, name.split("."), default)

    assert {"seed", "size", "stages.slice", "imbalance.two_stage"} <= {*names()}
    assert read(None, {name: value(name) for name in names()}) == default
