"""The options that `train` and `distil` share: images and training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tidegate.models.commands import fitting
from tidegate.models.data import training_data
from tidegate.models.data.training_data import TrainingData
from tidegate.models.progress import say
from tidegate.models.training import config as settings
from tidegate.models.training import split
from tidegate.models.training.config import Kind, TrainConfig
from tidegate.models.training.division import Shares, asked_for, check_same
from tidegate.models.training.recipe import Recipe

_SHORT = ("preset", "size", "seed", "device", "workers")  # settings with an option of their own


def add_data_options(images: argparse._ArgumentGroup) -> None:
    """Add the options of the images and their division."""
    images.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="a folder with one folder per class, or with train, calibrate and test that have one "
        "per class; or a splits.json",
    )
    images.add_argument(
        "--shares",
        type=float,
        nargs=3,
        metavar="X",
        help="shares of train, calibrate and test (default: 0.6 0.25 0.15)",
    )
    images.add_argument(
        "--groups",
        metavar="REGEX",
        help="images for whose path it finds the same text stay in one split: an object, a "
        "patient, a recording",
    )
    images.add_argument(
        "--divide-alike",
        action="store_true",
        help="divide images that are nearly the same like all others (default: they stay in one "
        "split)",
    )
    fitting.add_ood(images)


def add_training_options(
    training: argparse._ArgumentGroup,
    model_help: str,
    recipes: Sequence[Recipe],
    recipe_help: str,
) -> None:
    """Add the options of the training."""
    training.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help=model_help,
    )
    training.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="trained weights of the model to begin with, .pt or .safetensors (default: random)",
    )
    training.add_argument(
        "--recipe",
        choices=recipes,
        help=recipe_help,
    )
    training.add_argument(
        "--preset", choices=tuple(settings.PRESETS), help="augmentation (default: medium)"
    )
    training.add_argument(
        "--size", type=int, metavar="PIXELS", help="input size (default: the model's)"
    )
    training.add_argument(
        "--epochs", type=int, metavar="N", help="at most, of the stage of all layers"
    )
    training.add_argument("--seed", type=int, metavar="N", help="(default: 0)")
    training.add_argument("--device", choices=("auto", "cpu", "cuda"), help="(default: auto)")
    training.add_argument("--workers", type=int, metavar="N", help="processes that load images")
    training.add_argument("--config", type=Path, metavar="TOML", help="file of settings")
    training.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one setting, such as optimisation.rate=0.0005; may be repeated",
    )
    training.add_argument("--licence", help="licence of the weights, for the model card")
    training.add_argument(
        "--run",
        type=Path,
        metavar="DIR",
        help="folder of the training's files (default: runs/NAME/VERSION)",
    )
    training.add_argument("--fresh", action="store_true", help="begin the training again")
    training.add_argument(
        "--finish", action="store_true", help="train no further, and use the best epoch so far"
    )


def config(
    options: argparse.Namespace, kind: type[Kind], more: dict[str, object] | None = None
) -> Kind:
    """Return the settings; `more` are options of the command alone, None if they are not given."""
    given = settings.parse_options(options.set)
    short: dict[str, Any] = {name: getattr(options, name) for name in _SHORT}
    short |= {"stages.full": options.epochs, **(more or {})}
    given |= {name: value for name, value in short.items() if value is not None}
    return settings.read_as(kind, options.config, given)


def shares(options: argparse.Namespace) -> Shares | None:
    """Return the shares of the splits, None if they are not given."""
    return None if options.shares is None else Shares(*options.shares)


def run_folder(options: argparse.Namespace) -> Path:
    """Return the folder of the training's files."""
    run: Path | None = options.run
    return run or Path("runs") / options.name / options.version


def check_data(options: argparse.Namespace) -> None:
    """Raise BuildRefused for what is known of the images and their division at once."""
    keep_alike = not options.divide_alike
    split.check(options.data, shares(options), options.groups, keep_alike=keep_alike)


def divided(options: argparse.Namespace, folder: Path, config: TrainConfig) -> TrainingData:
    """Return the division of a splits file, or that of the run's folder.

    The latter is made by the first command, and then stays. Raises BuildRefused if it was made of
    other images or with other options.
    """
    if options.data.is_file():
        return training_data.read(options.data)
    file, keep_alike = folder / "splits.json", not options.divide_alike
    if file.is_file() and not options.fresh:
        known = training_data.read(file)
        used = None if split.is_divided(options.data) else shares(options) or Shares()
        root = {"root": str(options.data.absolute()), "seed": config.seed}
        check_same(file, root | asked_for(used, options.groups, keep_alike))
        say(f"The images are divided as in {file}.")
        return known
    division = split.divide(
        options.data, shares(options), config.seed, options.groups, keep_alike=keep_alike
    )
    for line in division.report():
        say(line)
    division.write(file)
    return training_data.read(file)


def named(word: str) -> str:
    """Return KIND:NAME or a path without the folders of the build machine, for the provenance."""
    kind, colon, name = word.rpartition(":")
    return f"{kind}{colon}{'/'.join(Path(name).parts[-2:])}"
