"""The demo model's name, preprocessing and file locations."""

from __future__ import annotations

from pathlib import Path

from tidegate.service.bundle.manifest import Precision
from tidegate.service.imaging.spec import CentreCropFraction, PreprocessSpec, Resize

NAME = "efficientnet-lite0"
VERSION = "1"
HERE = Path(__file__).parent
LABELS_FILE = HERE / "labels.txt"
ALL = "all"  # in the report: the labelled photographs of all measured sets


def name_of(precision: Precision) -> str:
    """Return the name of the bundle in a precision."""
    return NAME if precision == "fp32" else f"{NAME}-{precision}"


def calibration_files(precision: Precision) -> tuple[Path, Path]:
    """Return the committed calibration of a precision: its arrays and its report."""
    folder, stem = (HERE, "calibration") if precision == "fp32" else (HERE / "variants", precision)
    return folder / f"{stem}.npz", folder / f"{stem}.json"


# As in the network's own evaluation (tensorflow/tpu, efficientnet/preprocessing.py): a centred
# square of S/(S+32) of the shorter side, bicubic to S, then (x − 127)/128.
PREPROCESS = PreprocessSpec(
    exif_orientation="apply",
    alpha="composite-white",
    sixteen_bit="scale",
    steps=(
        CentreCropFraction(numerator=224, denominator=256, offset="floor"),
        Resize(height=224, width=224, filter="bicubic"),
    ),
    channel_order="rgb",
    scale=1.0,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
)
