"""`tidegate review export`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tidegate.service.commands import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    review = commands.add_parser("review", help="work with the images kept for review")
    verbs = review.add_subparsers(metavar="VERB", required=True)
    export = verbs.add_parser(
        "export", help="copy the images into one folder per class, for labelling or training"
    )
    export.add_argument("source", type=Path, help="the folder of TIDEGATE_REVIEW_DIR")
    export.add_argument("out", type=Path, help="the folder to write to")
    export.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from tidegate.service.review.export import Skip, export, in_words

    skipped: dict[Skip, int] = {}

    def report(path: Path, kind: Skip, reason: str) -> None:
        skipped[kind] = skipped.get(kind, 0) + 1
        print(f"skipped {path}: {reason}", file=sys.stderr)

    for folder, images in sorted(export(arguments.source, arguments.out, report).items()):
        print(f"{images:8,}  {folder}")
    if skipped:
        print(f"skipped: {in_words(skipped)}", file=sys.stderr)
    return 0
