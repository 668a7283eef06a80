"""What `tidegate train --model` names, and how a trained model is made of it."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tidegate.models.data.training_data import TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.importers import from_timm, timm_source
from tidegate.models.importers.base import Imported
from tidegate.models.importers.torch_export import check_exporter
from tidegate.models.progress import say
from tidegate.models.sealing.unseal import reopened
from tidegate.models.training import linear_head, probe, recipe
from tidegate.models.training.config import TrainConfig
from tidegate.models.training.recipe import Choice
from tidegate.models.training.train import Request, train
from tidegate.models.training.train import check as check_training
from tidegate.service.bundle.evidence import Parity
from tidegate.service.bundle.store import open_bundle

_FEATURES = "features"  # the folder of what is kept for other trainings
# Options that a linear layer has no use for, and those that a bundle has none for either.
_LAYERS_ONLY = ("preset", "epochs", "device", "workers", "config", "set", "finish")
_TORCH_ONLY = ("weights", "size", *_LAYERS_ONLY)


@dataclass(frozen=True, slots=True)
class Made:
    """A trained model, and an existing proof of its preprocessing, if there is one."""

    imported: Imported
    proved: Parity | None = None


class Source(Protocol):
    """A kind of model to begin with."""

    def check(self) -> None:
        """Raise BuildRefused for what is known before an image is read."""

    def train(self, data: TrainingData, folder: Path) -> Made:
        """Return the trained model; the training's files are in `folder`."""


def find(options: argparse.Namespace, config: TrainConfig) -> Source:
    """Return what --model names. Raises BuildRefused for an unknown kind."""
    kind, _, name = options.model.partition(":")
    if kind not in _KINDS or not name:
        raise BuildRefused(
            f"--model {options.model}: give timm:NAME, such as timm:efficientnet_b0, or "
            "bundle:FOLDER, a sealed bundle."
        )
    return _KINDS[kind](options, config, name)


@dataclass(frozen=True, slots=True)
class _Bundle:
    options: argparse.Namespace
    config: TrainConfig
    name: str

    def check(self) -> None:
        if self.options.recipe not in (None, "probe"):
            raise BuildRefused(
                f"--recipe {self.options.recipe}: the layers of a sealed bundle cannot be trained. "
                "Leave it out for a linear layer on them, or give timm:NAME and --weights."
            )
        for option in _given(self.options, _TORCH_ONLY):
            raise BuildRefused(f"{option} is for timm, not for a bundle.")
        open_bundle(Path(self.name))
        linear_head.check_installed()

    def train(self, data: TrainingData, folder: Path) -> Made:
        bundle = open_bundle(Path(self.name))
        why = "The layers of a sealed bundle stay as they are; a linear layer on them is fitted."
        source, cache = reopened(bundle), folder.parent / _FEATURES
        probed = probe.imported(source, data, why=why, seed=self.config.seed, cache=cache)
        licence = self.options.licence or probed.licence
        return Made(replace(probed, licence=licence), bundle.manifest.parity)


@dataclass(frozen=True, slots=True)
class _Timm:
    options: argparse.Namespace
    config: TrainConfig
    name: str

    def check(self) -> None:
        weights = self.options.weights
        if weights is not None and not weights.is_file():
            raise BuildRefused(f"--weights {weights} does not exist.")
        recipe.choose(self.options.recipe, weights is not None, 0)
        if self.options.recipe == "probe":
            for option in _given(self.options, _LAYERS_ONLY):
                raise BuildRefused(f"{option} is not for --recipe probe.")
        check_exporter()
        found = timm_source.find(self.name, None)
        if found.checkpoint is not None:  # local-dir:FOLDER
            raise BuildRefused(
                f"--model timm:{self.name}: give the network and its weights, --model "
                f"timm:{found.name} --weights {found.checkpoint}."
            )
        check_training(self.config)

    def train(self, data: TrainingData, folder: Path) -> Made:
        counts = Counter(image.class_id for image in data.train)
        choice = recipe.choose(
            self.options.recipe, self.options.weights is not None, len(data.train) / len(counts)
        )
        say(f"Recipe {choice.recipe}: {choice.why}")
        given = _given(self.options, _LAYERS_ONLY)
        if choice.recipe == "probe" and given:
            say(f"Not used, as a linear layer has no use for them: {', '.join(given)}.")
        made = self._probed if choice.recipe == "probe" else self._trained
        imported = made(data, folder, choice)
        licence = "unstated" if self.options.weights is None else imported.licence
        return Made(replace(imported, licence=self.options.licence or licence))

    def _probed(self, data: TrainingData, folder: Path, choice: Choice) -> Imported:
        overrides = from_timm.Overrides(size=self.config.size)
        source = from_timm.load(
            self.name, checkpoint=self.options.weights, overrides=overrides, encoder=True
        )
        cache = folder.parent / _FEATURES
        return probe.imported(source, data, why=choice.why, seed=self.config.seed, cache=cache)

    def _trained(self, data: TrainingData, folder: Path, choice: Choice) -> Imported:
        options = self.options
        trained = train(
            Request(
                self.name, options.weights, data, choice, self.config, folder, options.fresh,
                options.finish,
            )
        )  # fmt: skip
        imported = from_timm.load(f"{timm_source.LOCAL}{trained.model}")
        return replace(imported, training=trained.record)


def _given(options: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Return which of the options were given, as words."""
    values = {name: getattr(options, name) for name in names}
    return [
        f"--{name}"
        for name, value in values.items()
        if value is not None and value is not False and value != []
    ]


_KINDS: dict[str, Callable[[argparse.Namespace, TrainConfig, str], Source]] = {
    "timm": _Timm,
    "bundle": _Bundle,
}
