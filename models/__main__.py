"""Make bundles from the command line: `python -m models COMMAND`."""

from __future__ import annotations

import argparse
import importlib
import sys

from tidegate.models.progress import say
from tidegate.service.errors import TidegateError

# command → its module below models.commands, and what it does. Only the chosen one is imported:
# the demo needs neither scipy nor torch.
COMMANDS = {
    "demo": ("demo", "build the demo bundle, EfficientNet-Lite0 on ImageNet"),
    "demo-calibration": ("demo_calibration", "fit the demo's gate again, on two Debian packages"),
    "import": ("import_model", "a trained model and image folders → a sealed bundle"),
    "fit": ("fit_bundle", "a sealed bundle and other image folders → another sealed bundle"),
    "digits": ("digits", "train, fit and seal a small network on handwritten digits"),
    "export-plain": ("export_plain", "a bundle's backbone and preprocessing, for other servers"),
    "gate-cost": ("gate_cost", "time the gate: its scores in the graph, its p-values on the host"),
    "architectures": ("architectures", "export, seal and time every architecture of the table"),
    "gpu-report": ("gpu_report", "run the GPU tests, and measure every engine on the GPU here"),
    "retrain-request": ("retrain_request", "file a request for retraining when drift fires"),
}
_EXTRAS = {"scipy": "fit", "matplotlib": "fit", "safetensors": "torch"}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 refused, 2 misused, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    module, _ = COMMANDS[_parser().parse_args(words[:1]).command]
    try:
        command = importlib.import_module(f"tidegate.models.commands.{module}")
        options = command.parser().parse_args(words[1:])
        command.run(options)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        extra = _EXTRAS[error.name]
        say(f"error: this needs {error.name}: pip install 'tidegate[{extra}]' (here: '.[{extra}]')")
        return 1
    except TidegateError as error:
        say(f"error: {error}")
        return 1
    except OSError as error:  # a full disk, a folder that may not be written
        say(f"error: {error.filename or 'the file system'}: {error.strerror}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; nothing half-made was left in place")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS)) + 2
    parser = argparse.ArgumentParser(
        prog="python -m models",
        description="Make bundles. COMMAND --help tells a command's options.",
        epilog="\n".join(f"  {name:{width}}{text}" for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
