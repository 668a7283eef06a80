"""The settings of a training: a closed, typed model, from presets, a TOML file and options.

Pure: no torch. `read` raises BuildRefused for an unknown key, with the nearest known name.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tidegate.models.errors import BuildRefused

Preset = Literal["light", "medium", "heavy"]
Share = Annotated[float, Field(ge=0, le=1)]
Loss = Literal["plain", "weighted", "class-balanced", "focal", "logit-adjusted"]
Sampling = Literal["natural", "square-root", "balanced"]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Augmentation(_Closed):
    """Random changes of each training image."""

    crop: Annotated[float, Field(gt=0, le=1)] = 0.35  # least share of the area that a crop keeps
    stretch: Annotated[float, Field(ge=1, le=4)] = 4 / 3  # most ratio of the crop's sides
    flip: Literal["auto"] | bool = "auto"  # left and right; auto: by the names of the classes
    colour: Share = 0.0  # brightness, contrast and saturation change by at most this share
    policy: Literal["none", "trivial", "rand"] = "trivial"  # TrivialAugment or RandAugment
    rand_operations: Annotated[int, Field(ge=1, le=8)] = 2
    rand_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    erasing: Share = 0.0  # probability that a rectangle is erased


class Mixing(_Closed):
    """Mixing of two training images and their classes."""

    mixup: Annotated[float, Field(ge=0, le=5)] = 0.0  # alpha of MixUp; 0: none
    cutmix: Annotated[float, Field(ge=0, le=5)] = 0.0  # alpha of CutMix; 0: none
    share: Share = 1.0  # of the batches that are mixed
    least_images: Annotated[int, Field(ge=0)] = 2000  # no mixing below so many training images


class Optimisation(_Closed):
    """Optimiser, learning rate and schedule."""

    optimiser: str = "adamw"  # any of timm's
    rate: Annotated[float, Field(gt=0, le=10)] = 1e-3  # peak rate, of the head
    backbone_rate: Annotated[float, Field(gt=0, le=1)] = 0.1  # of a pretrained backbone: × rate
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None  # None: .75 for transformers
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.05
    schedule: Literal["cosine", "one-cycle"] = "cosine"
    warm_up: Share = 0.05  # share of the steps in which the rate rises
    batch: Annotated[int, Field(ge=2, le=4096)] = 64
    accumulate: Annotated[int, Field(ge=1, le=1024)] = 1  # batches per step
    clip: Annotated[float, Field(ge=0)] = 1.0  # most norm of the gradient; 0: any
    average: Annotated[float, Field(ge=0, lt=1)] = 0.999  # decay of the averaged weights; 0: none
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Stages(_Closed):
    """Epochs of the stages, and early stopping."""

    head: Annotated[int, Field(ge=0, le=1000)] = 4  # the head alone, on a pretrained backbone
    full: Annotated[int, Field(ge=1, le=10_000)] = 30
    balanced_head: Annotated[int, Field(ge=0, le=1000)] = 10  # if imbalance.two_stage
    patience: Annotated[int, Field(ge=1)] = 8  # epochs without a better slice
    slice: Annotated[float, Field(gt=0, le=0.5)] = 0.1  # share of train that chooses the epoch


class Imbalance(_Closed):
    """What is done if classes have different numbers of images."""

    loss: Loss = "plain"
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.999  # class-balanced: of the effective number
    gamma: Annotated[float, Field(ge=0, le=10)] = 2.0  # focal
    tau: Annotated[float, Field(ge=0, le=3)] = 1.0  # logit-adjusted
    sampling: Sampling = "natural"
    two_stage: bool = False  # after the natural training, the head alone on balanced samples


class TrainConfig(_Closed):
    """Every setting of a training."""

    preset: Preset = "medium"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    size: Annotated[int, Field(ge=16, le=2048)] | None = None  # pixels; None: the model's
    workers: Annotated[int, Field(ge=0, le=64)] | None = None  # that load images; None: by cores
    threads: Annotated[int, Field(ge=1, le=256)] | None = None  # of torch on a CPU; None: torch's
    device: Literal["auto", "cpu", "cuda"] = "auto"
    save_every_s: Annotated[float, Field(gt=0)] = 60.0  # between two resume files
    augmentation: Augmentation = Augmentation()
    mixing: Mixing = Mixing()
    optimisation: Optimisation = Optimisation()
    stages: Stages = Stages()
    imbalance: Imbalance = Imbalance()


PRESETS: Mapping[Preset, Mapping[str, Mapping[str, Any]]] = {
    "light": {"augmentation": {"crop": 0.6, "policy": "none"}},
    "medium": {},
    "heavy": {
        "augmentation": {"crop": 0.2, "policy": "rand", "colour": 0.2, "erasing": 0.25},
        "mixing": {"mixup": 0.2, "cutmix": 1.0},
    },
}


def read(file: Path | None, options: Mapping[str, Any]) -> TrainConfig:
    """Return the settings: of the preset, then of the TOML `file`, then of `options`.

    `options` maps dotted names ("optimisation.rate") to values. Raises BuildRefused for a file that
    cannot be read, an unknown name or a value out of bounds.
    """
    given: dict[str, Any] = {} if file is None else _toml(file)
    for name, value in options.items():
        _set(given, name, value)
    preset = given.get("preset", "medium")
    merged = _merged(PRESETS.get(preset, {}), given)
    try:
        return TrainConfig.model_validate(merged)
    except ValidationError as error:
        raise BuildRefused(_explain(error)) from error


def parse_options(words: Iterable[str]) -> dict[str, Any]:
    """Return `--set NAME=VALUE` options by name; a value that is no TOML value is text."""
    options: dict[str, Any] = {}
    for word in words:
        name, found, text = word.partition("=")
        if not (found and name.strip() and text.strip()):
            raise BuildRefused(f"--set {word}: give NAME=VALUE, such as optimisation.rate=0.0005.")
        try:
            options[name.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            options[name.strip()] = text.strip()
    return options


def names() -> tuple[str, ...]:
    """Return the dotted name of every setting."""
    found: list[str] = []
    for name, field in TrainConfig.model_fields.items():
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
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
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


def _explain(error: ValidationError) -> str:
    """Return the first mistake as a sentence, with the nearest names for an unknown one."""
    first = error.errors()[0]
    known = {*names(), *(name.partition(".")[0] for name in names())}
    place = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        return f"The setting {'.'.join(place)} is unknown{_near(place[-1])}."
    while len(place) > 1 and ".".join(place) not in known:
        place.pop()  # the alternatives of a union
    return f"The setting {'.'.join(place)} is {first['input']!r}: {first['msg'].lower()}."


def _near(word: str) -> str:
    by_last = {name.rpartition(".")[2]: name for name in names()}
    found = [by_last[near] for near in difflib.get_close_matches(word, by_last)]
    return f"; similar: {', '.join(found)}" if found else f"; known are {', '.join(names())}"
