"""`tidegate train`: from a folder of images to a trained, fitted and sealed bundle."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from tidegate.models.build_request import BuildOptions, Data, check_data, check_destination
from tidegate.models.commands import fitting, train_source, training
from tidegate.models.importers.base import Imported
from tidegate.models.pipeline import make
from tidegate.models.training import recipe
from tidegate.models.training.config import TrainConfig

_EPILOG = """Training goes on where it was stopped if the same command is given again.
All settings of a --config file, and their defaults: docs/guides/training.md.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate train",
        description="Divide a folder of images, train a classifier, prove its preprocessing, fit "
        "its gate, evaluate it and seal it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    training.add_data_options(options.add_argument_group("images"))
    group = options.add_argument_group("training")
    training.add_training_options(
        group,
        "timm:NAME; or, for a linear layer on it, bundle:FOLDER, the backbone of a bundle (without "
        "torch), or huggingface:FOLDER, an image encoder such as DINOv2, CLIP or SigLIP",
        recipe.RECIPES,
        "probe: a linear layer on the frozen backbone; staged: the last layer, then all layers; "
        f"full: all layers at once (default: probe below {recipe.PROBE_BELOW:,} images a class if "
        "--weights is given, else staged)",
    )
    group.add_argument(
        "--backend",
        choices=("pillow", "torch"),
        help="huggingface: library that resized the images in training, if the folder does not say",
    )
    group.add_argument(
        "--text-embeddings",
        type=Path,
        metavar="NPZ",
        help="zero-shot: a text vector for each class, from the text encoder of --model, instead "
        "of a trained last layer",
    )
    fitting.add_build_options(options)
    return options


def run(options: argparse.Namespace) -> None:
    """Train, fit and seal, and print the bundle's folder."""
    config = training.config(options, TrainConfig)
    source = train_source.find(options, config)
    command = f"tidegate train {training.named(options.model)}, seed {config.seed}"
    chosen = fitting.build_options(options, command)
    ood = fitting.ood(options)
    check_destination(chosen, options.out)
    training.check_data(options)
    source.check()
    folder = training.run_folder(options)
    divided = training.divided(options, folder, config)
    data = Data.of(divided, ood)
    check_data(data, chosen)
    made = source.train(divided, folder)
    described = _described(chosen, made.imported)
    print(make(made.imported, data, described, options.out, made.proved).path)


def _described(chosen: BuildOptions, imported: Imported) -> BuildOptions:
    made = imported.training.recipe if imported.training else ""
    return replace(chosen, recipe=f"{chosen.recipe}, recipe {made}")
