"""`tidegate train`: from a folder of images to a trained, fitted and sealed bundle."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from tidegate.models.build_request import BuildOptions, Data, check_data, check_destination
from tidegate.models.commands import fitting
from tidegate.models.data import training_data
from tidegate.models.data.training_data import TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.importers import from_timm, timm_source
from tidegate.models.importers.torch_export import check_exporter
from tidegate.models.pipeline import make
from tidegate.models.progress import say
from tidegate.models.training import config as settings
from tidegate.models.training import recipe, split
from tidegate.models.training.config import TrainConfig
from tidegate.models.training.division import Shares
from tidegate.models.training.train import Request, Trained, train

_EPILOG = """Training goes on where it was stopped if the same command is given again.
All settings of a --config file, and their defaults: docs/guides/training.md.
"""
_SHORT = ("preset", "size", "seed", "device", "workers")  # settings with an option of their own


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate train",
        description="Divide a folder of images, train a classifier, prove its preprocessing, fit "
        "its gate, evaluate it and seal it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_data_options(options.add_argument_group("images"))
    _add_training_options(options.add_argument_group("training"))
    fitting.add_build_options(options)
    return options


def _add_data_options(images: argparse._ArgumentGroup) -> None:
    images.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="one folder per class, or the folders train, calibrate and test with one per class",
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
    fitting.add_ood(images)


def _add_training_options(training: argparse._ArgumentGroup) -> None:
    training.add_argument("--model", required=True, metavar="timm:NAME", help="model to train")
    training.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="trained weights of the model to begin with, .pt or .safetensors (default: random)",
    )
    training.add_argument(
        "--recipe",
        choices=recipe.RECIPES,
        help="probe: a linear layer on the frozen backbone; staged: the last layer, then all "
        "layers; full: all layers at once (default: probe below "
        f"{recipe.PROBE_BELOW:,} images a class if --weights is given, else staged)",
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


def run(options: argparse.Namespace) -> None:
    """Train, fit and seal, and print the bundle's folder."""
    config = _config(options)
    name = _model_name(options.model)
    chosen = fitting.build_options(options, f"tidegate train {options.model}, seed {config.seed}")
    ood = fitting.ood(options)
    check_destination(chosen, options.out)
    if options.weights is not None and not options.weights.is_file():
        raise BuildRefused(f"--weights {options.weights} does not exist.")
    recipe.choose(options.recipe, options.weights is not None, 0)
    shares = None if options.shares is None else Shares(*options.shares)
    split.check(options.data, shares, options.groups)
    check_exporter()
    timm_source.find(name, None)
    folder = options.run or Path("runs") / chosen.name / chosen.version
    divided = _divided(options, folder, shares, config)
    data = Data.of(divided, ood)
    check_data(data, chosen)
    trained = _train(options, name, config, divided, folder)
    print(make(_imported(options, trained), data, _described(chosen, trained), options.out).path)


def _config(options: argparse.Namespace) -> TrainConfig:
    given = settings.parse_options(options.set)
    short: dict[str, Any] = {name: getattr(options, name) for name in _SHORT}
    short["stages.full"] = options.epochs
    given |= {name: value for name, value in short.items() if value is not None}
    return settings.read(options.config, given)


def _model_name(model: str) -> str:
    kind, _, name = model.partition(":")
    if kind != "timm" or not name:
        raise BuildRefused(f"--model {model}: give timm:NAME, such as timm:efficientnet_b0.")
    return name


def _divided(
    options: argparse.Namespace, folder: Path, shares: Shares | None, config: TrainConfig
) -> TrainingData:
    """Return the division of the run's folder; it is made by the first command, and then stays."""
    file = folder / "splits.json"
    if file.is_file() and not options.fresh:
        say(f"The images are divided as in {file}.")
    else:
        division = split.divide(options.data, shares, config.seed, options.groups)
        for line in division.report():
            say(line)
        division.write(file)
    return training_data.read(file)


def _train(
    options: argparse.Namespace, name: str, config: TrainConfig, data: TrainingData, folder: Path
) -> Trained:
    counts = Counter(image.class_id for image in data.train)
    choice = recipe.choose(
        options.recipe, options.weights is not None, len(data.train) / len(counts)
    )
    say(f"Recipe {choice.recipe}: {choice.why}")
    if choice.recipe == "probe":
        raise BuildRefused("The recipe probe is not there yet: give --recipe staged or full.")
    return train(
        Request(name, options.weights, data, choice, config, folder, options.fresh, options.finish)
    )


def _imported(options: argparse.Namespace, trained: Trained) -> Any:
    imported = from_timm.load(f"{timm_source.LOCAL}{trained.model}")
    licence = options.licence or ("unstated" if options.weights is None else imported.licence)
    return replace(imported, licence=licence, training=trained.record)


def _described(chosen: BuildOptions, trained: Trained) -> BuildOptions:
    return replace(chosen, recipe=f"{chosen.recipe}, recipe {trained.record.recipe}")
