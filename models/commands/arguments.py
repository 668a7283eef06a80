"""Options that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_out(options: argparse._ActionsContainer) -> None:
    """Add the folder that the bundle is written to."""
    options.add_argument(
        "--out",
        type=Path,
        default=Path("models/bundles"),
        metavar="DIR",
        help="folder of the bundles (default: %(default)s)",
    )


def add_replace(options: argparse._ActionsContainer) -> None:
    """Add the option that replaces an existing bundle."""
    options.add_argument("--replace", action="store_true", help="replace an existing bundle")


def add_accept_weak_gate(options: argparse._ActionsContainer) -> None:
    """Add the option that seals a gate which hardly catches anything."""
    options.add_argument(
        "--accept-weak-gate",
        action="store_true",
        help="seal the bundle although its gate catches hardly any synthetic OOD image",
    )
