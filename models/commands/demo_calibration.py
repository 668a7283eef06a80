"""`tidegate demo-calibration`: fit and calibrate the demo's gate; rarely needed."""

from __future__ import annotations

import argparse
from pathlib import Path

from tidegate.models.demo.calibrate import MeasurementBudget, calibrate
from tidegate.models.demo.evaluate import installed_pictures
from tidegate.models.demo.photographs import from_packages, from_tree, read_photographs
from tidegate.models.demo.source import find_wheel
from tidegate.models.demo.spec import CALIBRATION_ARRAYS
from tidegate.models.package_files import DOWNLOADS
from tidegate.models.progress import follow, say
from tidegate.models.sealing.write import check_writable


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate demo-calibration",
        description="Fit and calibrate the demo's gate and write models/demo/calibration.*. "
        "The evaluation uses pictures from scikit-image, scikit-learn and foolbox, which must be "
        "installed.",
    )
    where = options.add_mutually_exclusive_group()
    where.add_argument(
        "--photos", type=Path, metavar="DIR", help="folder with both packages unpacked"
    )
    where.add_argument(
        "--debs",
        type=Path,
        default=DOWNLOADS,
        metavar="DIR",
        help="folder with both .deb files; missing ones are fetched with apt-get "
        "(default: models/downloads)",
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Calibrate and write both files."""
    check_writable(CALIBRATION_ARRAYS.parent)
    pictures = installed_pictures()
    weights = find_wheel(None).weights()
    sources = from_tree(options.photos) if options.photos else from_packages(options.debs)
    photographs = read_photographs(follow(sources, "Reading the packages"))
    say(f"{len(photographs)} photographs.")
    calibrate(photographs, weights, pictures, MeasurementBudget()).save()
    say(
        "Wrote models/demo/calibration.npz and calibration.json; rebuild the bundle with `tidegate "
        "demo`."
    )
