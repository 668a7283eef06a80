"""`tidegate key`: make API keys, and check the file that lists them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.service.commands import Commands
from tidegate.service.errors import KeyUnusable

if TYPE_CHECKING:
    from tidegate.service.api.keys import Client


def add(commands: Commands) -> None:
    """Declare the commands."""
    key = commands.add_parser("key", help="make API keys, and check the file of TIDEGATE_KEYS")
    verbs = key.add_subparsers(metavar="VERB", required=True)
    new = verbs.add_parser("new", help="make a key, and print it with its line for the file")
    new.add_argument("name", help="name of the client, in logs, metrics and quotas")
    new.add_argument(
        "--scopes",
        default="classify",
        help="what the key is for: classify, feedback, metrics, admin; separated by commas "
        "(default: classify)",
    )
    new.add_argument("--rate", default="-", help="images per second; 0 = no limit")
    new.add_argument("--burst", default="-", help="images in one burst")
    new.add_argument("--concurrent", default="-", help="maximum images in progress")
    new.add_argument("--weight", default="-", help="weight of its share of the queue under load")
    new.set_defaults(run=_new)
    check = verbs.add_parser("check", help="check a file of keys, and list its clients")
    check.add_argument("file")
    check.set_defaults(run=_check)


def _new(arguments: argparse.Namespace) -> int:
    from tidegate.service.api.keys import hash_of, new_key, parse_line

    key = new_key()
    limits = (arguments.rate, arguments.burst, arguments.concurrent, arguments.weight)
    columns = [arguments.name, hash_of(key), arguments.scopes, *limits]
    while columns[-1] == "-":
        columns.pop()
    try:
        parse_line(columns)
    except ValueError as error:
        raise KeyUnusable(f"{error}.") from error
    print(f"Key, shown only now:\n{key}\n\nLine for the file of TIDEGATE_KEYS:")
    print(" ".join(columns))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from tidegate.service.api.keys import COLUMNS, parse_keys
    from tidegate.service.files import read_small
    from tidegate.service.followed_files import MAX_BYTES

    try:
        keyring = parse_keys(read_small(Path(arguments.file), MAX_BYTES))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise KeyUnusable(f"{arguments.file}: {reason}.") from error
    names = (COLUMNS[0], *COLUMNS[2:])
    rows = [names, *(_row(client) for client in keyring.by_name().values())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (word.ljust(width) for word, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())
    return 0


def _row(client: Client) -> tuple[str, ...]:
    limits = (client.rate, client.burst, client.concurrent, client.weight)
    values = ("-" if value is None else f"{value:.15g}" for value in limits)
    return (client.name, ",".join(sorted(client.scopes)), *values)
