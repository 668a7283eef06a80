"""`tidegate drift-report`: one drift report of all shards of a set."""

from __future__ import annotations

import argparse
from pathlib import Path

from tidegate.service.commands import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    report = commands.add_parser(
        "drift-report",
        help="make one drift report of all shards that `tidegate classify --drift` has classified",
        description="Compare a set of images with a bundle's reference, from the notes that "
        "`tidegate classify --drift` has written next to the result of each shard.",
    )
    report.add_argument(
        "notes", nargs="+", type=Path, metavar="NOTES", help="NAME.drift.npz of every shard"
    )
    report.add_argument("--bundle", required=True, type=Path, help="bundle folder")
    report.add_argument("--out", required=True, type=Path, help="report: NAME.html or NAME.json")
    report.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from tidegate.service.bundle.store import open_bundle
    from tidegate.service.offline.drift.page import write_report
    from tidegate.service.offline.drift.records import read

    notes = [read(path) for path in arguments.notes]
    found = write_report(arguments.out, open_bundle(arguments.bundle), notes)
    print(f"{arguments.out}: {found}")
    return 0
