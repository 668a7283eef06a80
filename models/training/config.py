"""The settings of a training: a closed, typed model, from presets, a TOML file and options.

Pure: no torch. `read` raises BuildRefused for an unknown key, with the nearest known name.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tidegate.models.errors import BuildRefused

Preset = Literal["light", "medium", "heavy"]
Loss = Literal["plain", "weighted", "class-balanced", "focal", "logit-adjusted"]
Sampling = Literal["natural", "square-root", "balanced"]


class Closed(BaseModel):
    """A frozen model that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Augmentation(Closed):
    """Random changes of each training image."""

    crop: float = Field(
        default=0.35, gt=0, le=1, description="least share of the area that a crop keeps"
    )
    stretch: float = Field(
        default=4 / 3, ge=1, le=4, description="most stretching of a crop's sides"
    )
    flip: Literal["auto"] | bool = Field(
        default="auto",
        description="whether to mirror left and right; auto: unless a class has a side",
    )
    colour: float = Field(
        default=0.0, ge=0, le=1, description="most change of brightness, contrast and saturation"
    )
    policy: Literal["none", "trivial", "rand"] = Field(
        default="trivial", description="TrivialAugment, RandAugment, or neither"
    )
    rand_operations: int = Field(
        default=2, ge=1, le=8, description="RandAugment: changes of an image"
    )
    rand_magnitude: int = Field(
        default=9, ge=0, le=30, description="RandAugment: strength of a change"
    )
    erasing: float = Field(
        default=0.0, ge=0, le=1, description="share of images with an erased rectangle"
    )


class Mixing(Closed):
    """Mixing of two training images and their classes."""

    mixup: float = Field(default=0.0, ge=0, le=5, description="alpha of MixUp; 0: none")
    cutmix: float = Field(default=0.0, ge=0, le=5, description="alpha of CutMix; 0: none")
    share: float = Field(default=1.0, ge=0, le=1, description="share of the batches that are mixed")
    least_images: int = Field(
        default=2000, ge=0, description="no image is mixed if fewer are trained on"
    )


class Optimisation(Closed):
    """Optimiser, learning rate and schedule."""

    optimiser: str = Field(default="adamw", description="any optimiser of timm")
    rate: float = Field(
        default=1e-3, gt=0, le=10, description="highest learning rate, of the last layer"
    )
    backbone_rate: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="factor of it for a trained backbone that is no transformer",
    )
    layer_decay: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="factor of the rate from layer to layer of a trained backbone; unset: 0.75 for "
        "a transformer, none for others",
    )
    weight_decay: float = Field(default=0.05, ge=0, le=1, description="not of biases and norms")
    schedule: Literal["cosine", "one-cycle"] = Field(
        default="cosine", description="how the rate falls after the warm-up"
    )
    warm_up: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="cosine: share of a stage's steps in which the rate rises",
    )
    batch: int = Field(default=64, ge=2, le=4096, description="images that are run together")
    accumulate: int = Field(default=1, ge=1, le=1024, description="batches of a step")
    clip: float = Field(default=1.0, ge=0, description="largest norm of the gradient; 0: no limit")
    average: float = Field(
        default=0.999, ge=0, lt=1, description="decay of the averaged weights (EMA); 0: no average"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of the target that is spread over all classes"
    )


class Stages(Closed):
    """Epochs of the stages, and early stopping."""

    head: int = Field(
        default=4,
        ge=0,
        le=1000,
        description="epochs of the last layer alone, on a trained backbone",
    )
    full: int = Field(default=30, ge=1, le=10_000, description="epochs of all layers")
    balanced_head: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="epochs of the balanced last layer of a two-stage training",
    )
    patience: int = Field(
        default=8, ge=1, description="epochs without a better one that end a stage"
    )
    slice: float = Field(
        default=0.1, gt=0, le=0.5, description="share of train that is held out to choose the epoch"
    )


class Imbalance(Closed):
    """What is done if classes have different numbers of images."""

    loss: Loss = Field(default="plain", description="loss of an image")
    beta: float = Field(
        default=0.999, ge=0, lt=1, description="class-balanced: β of the effective number"
    )
    gamma: float = Field(default=2.0, ge=0, le=10, description="focal: γ")
    tau: float = Field(
        default=1.0, ge=0, le=3, description="logit-adjusted: factor of the log priors"
    )
    sampling: Sampling = Field(
        default="natural", description="how often an image of a class is drawn"
    )
    two_stage: bool = Field(
        default=False,
        description="then train the last layer alone, on equally many images of each class",
    )


class TrainConfig(Closed):
    """Every setting of a training."""

    preset: Preset = Field(
        default="medium", description="augmentation and mixing that the others change"
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of everything random")
    size: int | None = Field(
        default=None, ge=16, le=2048, description="pixels of the input's sides; unset: the model's"
    )
    workers: int | None = Field(
        default=None, ge=0, le=64, description="processes that load images; unset: by the cores"
    )
    threads: int | None = Field(
        default=None, ge=1, le=256, description="threads of torch on a CPU; unset: torch's default"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where to train")
    save_every_s: float = Field(
        default=60.0, gt=0, description="time between two files to resume from"
    )
    augmentation: Augmentation = Augmentation()
    mixing: Mixing = Mixing()
    optimisation: Optimisation = Optimisation()
    stages: Stages = Stages()
    imbalance: Imbalance = Imbalance()


Kind = TypeVar("Kind", bound=TrainConfig)

PRESETS: Mapping[Preset, Mapping[str, Mapping[str, Any]]] = {
    "light": {"augmentation": {"crop": 0.6, "policy": "none"}},
    "medium": {},
    "heavy": {
        "augmentation": {"crop": 0.2, "policy": "rand", "colour": 0.2, "erasing": 0.25},
        "mixing": {"mixup": 0.2, "cutmix": 1.0},
    },
}


def read(file: Path | None, options: Mapping[str, Any]) -> TrainConfig:
    """Return the settings of a training, see `read_as`."""
    return read_as(TrainConfig, file, options)


def read_as(kind: type[Kind], file: Path | None, options: Mapping[str, Any]) -> Kind:
    """Return settings: of the preset, then of the TOML `file`, then of `options`.

    `options` maps dotted names ("optimisation.rate") to values. Raises BuildRefused for a file that
    cannot be read, an unknown name or a value out of bounds.
    """
    given: dict[str, Any] = {} if file is None else _toml(file)
    for name, value in options.items():
        _set(given, name, value)
    preset = given.get("preset", "medium")
    # An unknown one, which may be of any type, is refused below.
    known = next((values for name, values in PRESETS.items() if name == preset), {})
    merged = _merged(known, given)
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        raise BuildRefused(_explain(error, names(kind))) from error


def parse_options(words: Iterable[str]) -> dict[str, Any]:
    """Return `--set NAME=VALUE` options by name; a value that is no TOML value is text."""
    options: dict[str, Any] = {}
    for word in words:
        name, found, text = word.partition("=")
        if not (found and name.strip() and text.strip()):
            raise BuildRefused(f"--set {word}: give NAME=VALUE, such as optimisation.rate=0.0005.")
        try:
            options[name.strip()] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):  # also a huge number, or too many brackets
            options[name.strip()] = text.strip()
    return options


def names(kind: type[TrainConfig] = TrainConfig) -> tuple[str, ...]:
    """Return the dotted name of every setting."""
    found: list[str] = []
    for name, field in kind.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            found += [f"{name}.{inner}" for inner in part.model_fields]
        else:
            found.append(name)
    return tuple(found)


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        raise BuildRefused(f"--config {file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # also a huge number, or too many brackets
        raise BuildRefused(f"--config {file} is not TOML: {error}.") from error


def _set(given: dict[str, Any], name: str, value: Any) -> None:
    *tables, last = name.split(".")
    place = given
    for table in tables:
        inner = place.setdefault(table, {})
        if not isinstance(inner, dict):
            raise BuildRefused(f"The setting {name} is unknown: {table} is a value, not a table.")
        place = inner
    place[last] = value


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(under, value) if both else value  # type: ignore[arg-type]  # checked
    return merged


def _explain(error: ValidationError, every: Sequence[str]) -> str:
    """Return the first mistake as a sentence, with the nearest names for an unknown one."""
    first = error.errors()[0]
    known = {*every, *(name.partition(".")[0] for name in every)}
    place = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        return f"The setting {'.'.join(place)} is unknown{_near(place[-1], every)}."
    while len(place) > 1 and ".".join(place) not in known:
        place.pop()  # the alternatives of a union
    return f"The setting {'.'.join(place)} is {first['input']!r}: {first['msg'].lower()}."


def _near(word: str, every: Sequence[str]) -> str:
    by_last = {name.rpartition(".")[2]: name for name in every}
    found = [by_last[near] for near in difflib.get_close_matches(word, by_last)]
    return f"; similar: {', '.join(found)}" if found else f"; known are {', '.join(every)}"
