"""Load a server and measure it: `python -m load_tests COMMAND`."""

import argparse
import importlib
import shlex
import sys

from load_tests.errors import MeasurementFailed

# command → its module below load_tests.commands, and what it does. Only the chosen one is
# imported: most need neither matplotlib nor an inference runtime.
COMMANDS = {
    "run": ("run", "open-loop load at a rate, or N closed-loop clients"),
    "images": ("images", "write the images that a load test sends"),
    "scenarios": ("scenarios", "overload, bursts, slow and vanishing clients, a long soak"),
    "sweep": ("sweep", "find the capacity, then load at 0.1 to 3 times of it and draw the curves"),
    "compare": ("compare", "the server, its peers and a bare loop, interleaved in one table"),
    "peers-install": ("peers_install", "an environment of its own for each peer of the comparison"),
    "fuzz": ("fuzz", "mutated images and damaged HTTP, every answer judged"),
    "chaos": ("chaos", "signals, stalls, full disks and hostile clients, one row each"),
    "hostile": ("hostile", "sound clients without, beside and after a share of hostile images"),
    "bad-input": ("bad_input", "what a server does with broken, huge and empty uploads"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns 0 when something was measured, 1 when nothing was, 130 when interrupted; bad arguments
    end the process with 2 and a sentence.
    """
    words = sys.argv[1:] if arguments is None else arguments
    module, _ = COMMANDS[_parser().parse_args(words[:1]).command]
    try:
        command = importlib.import_module(f"load_tests.commands.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("load_tests"):
            raise
        return _say(f"error: this needs {error.name}: pip install --group load")
    parser: argparse.ArgumentParser = command.parser()
    try:
        options = parser.parse_args(words[1:])
        return int(command.run(options, shlex.join(["python", "-m", "load_tests", *words])))
    except (FileNotFoundError, ProcessLookupError, ValueError) as error:
        parser.error(str(error))
    except MeasurementFailed as error:
        return _say(f"nothing measured: {error}")
    except OSError as error:  # a full disk, a folder that may not be written
        return _say(f"error: {error.filename or 'the system'}: {error.strerror}")
    except KeyboardInterrupt:
        return _say("interrupted", 130)


def _say(sentence: str, code: int = 1) -> int:
    print(sentence, file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS)) + 2
    parser = argparse.ArgumentParser(
        prog="python -m load_tests",
        description="Load a server over HTTP and measure it. COMMAND --help tells its options.",
        epilog="\n".join(f"  {name:{width}}{text}" for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
