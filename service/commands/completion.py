"""`tidegate completion`."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from tidegate.service.commands import Commands


def add(commands: Commands, parser: argparse.ArgumentParser) -> None:
    """Declare the command, which completes the commands of `parser`."""
    completion = commands.add_parser("completion", help="print a completion script for a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    completion.set_defaults(run=partial(_run, parser))


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    try:
        import shtab
    except ModuleNotFoundError:
        print("tidegate: completion needs shtab: pip install shtab", file=sys.stderr)
        return 1
    print(shtab.complete(parser, arguments.shell))
    return 0
