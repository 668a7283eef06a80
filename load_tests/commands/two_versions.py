"""The option `--second` of the commands that serve two versions of a model."""

import argparse
from pathlib import Path

from load_tests.rollout.preparation import RETRAINED
from load_tests.rollout.versions import name_of


def add_second(options: argparse.ArgumentParser, what: str) -> None:
    """Add the option that says what version 2 of a model is."""
    options.add_argument(
        "--second",
        default=RETRAINED,
        metavar="BUNDLE",
        help=f"{what}: a bundle's folder (default: the first bundle, with other weights in its "
        "last layer)",
    )


def name_of_second(second: str) -> str:
    """Return the name of what `--second` says."""
    return second if second == RETRAINED else name_of(Path(second))
