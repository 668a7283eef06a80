"""`tidegate architectures`: the table of models/README.md, measured on this machine."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from tidegate.models.benchmarks.architectures import ARCHITECTURES, measure, table
from tidegate.models.errors import BuildRefused


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate architectures",
        description="Export, seal, open and time every architecture, and print a table. Weights "
        "are random but for EfficientNet-Lite. Takes minutes.",
    )
    options.add_argument("names", nargs="*", metavar="NAME", help="only those whose name begins so")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    options.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the bundles, for `gpu-report` to measure"
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    chosen = [a for a in ARCHITECTURES if a.name.startswith(tuple(options.names or [""]))]
    if not chosen:
        raise BuildRefused(f"No architecture begins so; there are {_names()}.")
    rows = measure(chosen, options.keep)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(table(rows))


def _names() -> str:
    return ", ".join(architecture.name for architecture in ARCHITECTURES)
