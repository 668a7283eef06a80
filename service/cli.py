"""The `tidegate` command. An expected error prints one line and sets the exit code."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from tidegate.service import makers
from tidegate.service.commands import (
    bundle,
    classify,
    completion,
    describe,
    drift_report,
    engine,
    health,
    key,
    review,
    serve,
    serving,
)
from tidegate.service.errors import TidegateError

EXIT_BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0 success, 1 expected error, 2 wrong usage, 70 engine failed, 130 interrupted, 141 broken pipe.
    """
    _open_closed_streams()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        if words and words[0] in makers.COMMANDS:
            return makers.run(words[0], words[1:])
        arguments = parser().parse_args(words)
        code: int = arguments.run(arguments)
    except TidegateError as error:
        with contextlib.suppress(OSError):  # stderr may be closed; the exit code still reports it
            print(f"tidegate: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has closed the pipe, as in `tidegate describe | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    tidegate = argparse.ArgumentParser(
        prog="tidegate",
        description="Serve an image classifier that rejects out-of-distribution images.",
        epilog="Settings are TIDEGATE_* environment variables; `tidegate describe` lists them.",
    )
    tidegate.add_argument("--version", action="version", version=f"%(prog)s {version('tidegate')}")
    commands = tidegate.add_subparsers(metavar="COMMAND", required=True)
    for command in (
        serve,
        classify,
        drift_report,
        health,
        describe,
        engine,
        bundle,
        serving,
        key,
        review,
    ):
        command.add(commands)
    completion.add(commands, tidegate)
    for name, (_, text) in makers.COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return tidegate


def _open_closed_streams() -> None:
    """Open the null device for each standard stream that is closed, for example by `2>&-`.

    Otherwise the next file or connection would get its descriptor, and receive what is printed,
    here or in a process that this one starts.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:  # open() returns the lowest free number, which is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            stream = open(os.devnull, "r" if name == "stdin" else "w")  # noqa: SIM115
            setattr(sys, name, stream)


if __name__ == "__main__":
    sys.exit(main())
