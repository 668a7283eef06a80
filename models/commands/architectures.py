"""`tidegate architectures`: measure the table in docs/reference/architectures.md here."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from tidegate.models.benchmarks.architectures import ARCHITECTURES, measure, table
from tidegate.models.errors import BuildRefused
from tidegate.models.importers.torch_export import check_exporter
from tidegate.models.sealing.write import check_writable


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate architectures",
        description="Export, seal, open and time every architecture, and print a table. Weights "
        "are random except for EfficientNet-Lite. Takes minutes.",
    )
    options.add_argument(
        "names", nargs="*", metavar="NAME", help="only those whose name starts with NAME"
    )
    options.add_argument(
        "--precision",
        choices=("fp32", "int8"),
        default="fp32",
        help="of the backbones (default: %(default)s)",
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    options.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the bundles in DIR, for `gpu-report`"
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Measure, and print the table."""
    chosen = [a for a in ARCHITECTURES if a.name.startswith(tuple(options.names or [""]))]
    if not chosen:
        raise BuildRefused(f"No architecture has a name that starts so. Known: {_names()}.")
    check_exporter()
    for folder in filter(None, (options.json and options.json.parent, options.keep)):
        check_writable(folder)
    rows = measure(chosen, options.keep, options.precision)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(table(rows))


def _names() -> str:
    return ", ".join(architecture.name for architecture in ARCHITECTURES)
