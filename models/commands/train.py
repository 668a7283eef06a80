"""`tidegate train`: from a folder of images to a trained, fitted and sealed bundle."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from tidegate.models.build_request import BuildOptions, Data, check_data, check_destination
from tidegate.models.commands import fitting, train_source
from tidegate.models.data import training_data
from tidegate.models.data.training_data import TrainingData
from tidegate.models.importers.base import Imported
from tidegate.models.pipeline import make
from tidegate.models.progress import say
from tidegate.models.training import config as settings
from tidegate.models.training import recipe, split
from tidegate.models.training.config import TrainConfig
from tidegate.models.training.division import Shares, asked_for, check_same

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


def _add_training_options(training: argparse._ArgumentGroup) -> None:
    training.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="timm:NAME; or bundle:FOLDER, for a linear layer on the backbone of a bundle, without "
        "torch",
    )
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
    source = train_source.find(options, config)
    chosen = fitting.build_options(options, f"tidegate train {_named(options)}, seed {config.seed}")
    ood = fitting.ood(options)
    check_destination(chosen, options.out)
    shares = None if options.shares is None else Shares(*options.shares)
    split.check(options.data, shares, options.groups, keep_alike=not options.divide_alike)
    source.check()
    folder = options.run or Path("runs") / chosen.name / chosen.version
    divided = _divided(options, folder, shares, config)
    data = Data.of(divided, ood)
    check_data(data, chosen)
    made = source.train(divided, folder)
    described = _described(chosen, made.imported)
    print(make(made.imported, data, described, options.out, made.proved).path)


def _config(options: argparse.Namespace) -> TrainConfig:
    given = settings.parse_options(options.set)
    short: dict[str, Any] = {name: getattr(options, name) for name in _SHORT}
    short["stages.full"] = options.epochs
    given |= {name: value for name, value in short.items() if value is not None}
    return settings.read(options.config, given)


def _divided(
    options: argparse.Namespace, folder: Path, shares: Shares | None, config: TrainConfig
) -> TrainingData:
    """Return the division of a splits file, or that of the run's folder.

    The latter is made by the first command, and then stays. Raises BuildRefused if it was made of
    other images or with other options.
    """
    if options.data.is_file():
        return training_data.read(options.data)
    file, keep_alike = folder / "splits.json", not options.divide_alike
    if file.is_file() and not options.fresh:
        divided = training_data.read(file)
        used = None if split.is_divided(options.data) else shares or Shares()
        root = {"root": str(options.data.absolute()), "seed": config.seed}
        check_same(file, root | asked_for(used, options.groups, keep_alike))
        say(f"The images are divided as in {file}.")
        return divided
    division = split.divide(
        options.data, shares, config.seed, options.groups, keep_alike=keep_alike
    )
    for line in division.report():
        say(line)
    division.write(file)
    return training_data.read(file)


def _named(options: argparse.Namespace) -> str:
    """Return --model without the folders of the build machine, for the provenance."""
    kind, _, name = options.model.partition(":")
    return f"{kind}:{'/'.join(Path(name).parts[-2:])}"


def _described(chosen: BuildOptions, imported: Imported) -> BuildOptions:
    made = imported.training.recipe if imported.training else ""
    return replace(chosen, recipe=f"{chosen.recipe}, recipe {made}")
