"""`tidegate demo-calibration`: fit the demo's gate and temperature; rarely needed."""

from __future__ import annotations

import argparse
from pathlib import Path

from tidegate.models.demo.calibrate import MeasurementBudget, calibrate
from tidegate.models.demo.evaluate import installed_pictures
from tidegate.models.demo.photographs import photographs
from tidegate.models.demo.source import find_wheel
from tidegate.models.demo.spec import calibration_files
from tidegate.models.package_files import DOWNLOADS
from tidegate.models.progress import say
from tidegate.models.sealing.write import check_writable


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate demo-calibration",
        description="Fit the demo's gate and temperature and write models/demo/calibration.*, or "
        "models/demo/variants/PRECISION.*. "
        "The evaluation uses pictures from scikit-image, scikit-learn and foolbox, which must be "
        "installed.",
    )
    options.add_argument(
        "--precision",
        choices=("fp32", "bf16", "int8"),
        default="fp32",
        help="precision of the network (default: %(default)s)",
    )
    options.add_argument(
        "--packages",
        type=Path,
        default=DOWNLOADS,
        metavar="DIR",
        help="folder with the packages; missing ones are fetched with apt-get and npm "
        "(default: models/downloads)",
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Calibrate and write both files."""
    arrays, report = calibration_files(options.precision)
    check_writable(arrays.parent)
    pictures = installed_pictures()
    weights = find_wheel(None).weights()
    found = photographs(options.packages)
    say(f"{len(found)} photographs.")
    calibration = calibrate(found, weights, pictures, MeasurementBudget(), options.precision)
    calibration.save(options.precision)
    say(f"Wrote {arrays} and {report}; rebuild the bundle with `tidegate demo`.")
