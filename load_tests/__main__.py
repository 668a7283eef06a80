"""Load a server and measure it: `python -m load_tests COMMAND`."""

import argparse
import importlib
import shlex
import sys

from load_tests.errors import MeasurementFailed

# command → its module in load_tests.commands, and its help. Only the chosen module is imported,
# because most commands need neither matplotlib nor an inference runtime.
COMMANDS = {
    "run": ("run", "open-loop load at a rate, or N closed-loop clients"),
    "images": ("images", "write the images that a load test sends"),
    "scenarios": ("scenarios", "overload, bursts, slow and disconnecting clients, a long soak"),
    "sweep": ("sweep", "measure the capacity, then plot loads of 0.1 to 3 times the capacity"),
    "compare": ("compare", "compare the server with its peers and a bare loop, interleaved"),
    "perf-analyzer": ("perf_analyzer", "Triton's load generator on our server and PyTriton"),
    "peers-install": ("peers_install", "install each peer in a separate virtual environment"),
    "fuzz": ("fuzz", "send mutated images and damaged HTTP, and check every answer"),
    "chaos": ("chaos", "signals, stalls, full disks and hostile clients, one row per scenario"),
    "hostile": ("hostile", "normal clients before, during and after a share of hostile images"),
    "reload": ("reload", "change the served version under load, again and again"),
    "shadow": ("shadow", "the effect of a shadow on live traffic"),
    "overhead": ("overhead", "what scrapes, traces, keys, v2 or a change of the code cost"),
    "fronts": ("fronts", "what front ends bring, with a fake engine that takes no CPU"),
    "bulk": ("bulk", "`tidegate classify` against a bare loop, in turns"),
    "bulk-set": ("bulk_set", "write a large set of varied images, broken ones among them"),
    "bulk-job": ("bulk_job", "a large job: memory, kills, and the answers of POST /classify"),
    "memory": ("memory", "resident memory, start and time per image of a small service"),
    "bad-input": ("bad_input", "behaviour of servers on broken, huge and empty uploads"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns 0 if something was measured, 1 if nothing was, 130 if interrupted. For bad arguments the
    process exits with code 2 and an error message.
    """
    words = sys.argv[1:] if arguments is None else arguments
    module, _ = COMMANDS[_parser().parse_args(words[:1]).command]
    try:
        command = importlib.import_module(f"load_tests.commands.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("load_tests"):
            raise
        return _fail(f"error: this needs {error.name}: pip install --group load")
    parser: argparse.ArgumentParser = command.parser()
    try:
        options = parser.parse_args(words[1:])
        return int(command.run(options, shlex.join(["python", "-m", "load_tests", *words])))
    except (FileNotFoundError, ProcessLookupError, ValueError) as error:
        parser.error(str(error))
    except MeasurementFailed as error:
        return _fail(f"nothing measured: {error}")
    except OSError as error:  # a full disk, a folder without write permission
        return _fail(f"error: {error.filename or 'the system'}: {error.strerror}")
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _fail(message: str, code: int = 1) -> int:
    print(message, file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS)) + 2
    parser = argparse.ArgumentParser(
        prog="python -m load_tests",
        description="Load a server over HTTP and measure it. COMMAND --help lists its options.",
        epilog="\n".join(f"  {name:{width}}{text}" for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
