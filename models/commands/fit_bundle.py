"""`tidegate fit BUNDLE`: fit a new gate for a sealed model on your own images."""

from __future__ import annotations

import argparse
from pathlib import Path

from tidegate.models.commands import fitting
from tidegate.models.pipeline import make
from tidegate.models.sealing.unseal import reopened
from tidegate.service.bundle.store import open_bundle


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate fit",
        description="Fit the gate, the temperature and the drift reference of a sealed bundle's "
        "model again, evaluate, and seal a new bundle. The model and its preprocessing stay.",
    )
    options.add_argument("bundle", type=Path, help="folder of a sealed bundle")
    fitting.add_options(options)
    return options


def run(options: argparse.Namespace) -> None:
    """Fit, seal, and print the new bundle's folder."""
    data = fitting.data(options)
    bundle = open_bundle(options.bundle)
    chosen = fitting.build_options(options, f"tidegate fit, of bundle {bundle.digest}")
    print(make(reopened(bundle), data, chosen, options.out, bundle.manifest.parity).path)
