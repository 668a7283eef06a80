"""The options that `import` and `fit` share: which images, which gate, which name."""

from __future__ import annotations

import argparse
from pathlib import Path

from tidegate.models.errors import BuildRefused
from tidegate.models.fitting.conformal import GateTarget
from tidegate.models.fitting.fit import FitOptions
from tidegate.models.fitting.mahalanobis import DistanceOptions
from tidegate.models.pipeline import BuildOptions, Data


def add_options(options: argparse.ArgumentParser) -> None:
    """Add them to a command's parser."""
    data = options.add_argument_group(
        "images", "ImageFolders: one folder a class. No image may be in two of them."
    )
    data.add_argument("--train", type=Path, required=True, metavar="DIR", help="fits class means")
    data.add_argument(
        "--calibrate",
        type=Path,
        required=True,
        metavar="DIR",
        help="fits the temperature and the gate's thresholds; never seen in training",
    )
    data.add_argument("--test", type=Path, required=True, metavar="DIR", help="for the model card")
    data.add_argument(
        "--ood",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="images that the gate should refuse, for the model card; may be repeated",
    )
    data.add_argument(
        "--labels", type=Path, metavar="FILE", help="one class a line, in the model's order"
    )
    bundle = options.add_argument_group("bundle")
    bundle.add_argument("--name", required=True, help="lower-case letters, digits, . _ -")
    bundle.add_argument("--version", required=True, help="likewise")
    bundle.add_argument(
        "--out",
        type=Path,
        default=Path("models/bundles"),
        metavar="DIR",
        help="where bundles are (default: %(default)s)",
    )
    bundle.add_argument("--replace", action="store_true", help="replace a bundle that is there")
    bundle.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        help="of the backbone; the gate stays fp32 (default: as the model is)",
    )
    bundle.add_argument(
        "--int8-for",
        choices=("cpu", "tensorrt"),
        default="cpu",
        help="what will run an int8 backbone: their kernels take different ones "
        "(default: %(default)s)",
    )
    bundle.add_argument(
        "--max-drop",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="accuracy or OOD AUROC that fp16 or int8 may lose (default: %(default)s)",
    )
    _add_gate_options(options.add_argument_group("gate"))


def _add_gate_options(gate: argparse._ArgumentGroup) -> None:
    gate.add_argument(
        "--distance",
        choices=("l2-normalised", "raw"),
        default="l2-normalised",
        help="features of the Mahalanobis score (default: %(default)s)",
    )
    gate.add_argument(
        "--relative", action="store_true", help="less the distance under one normal for all classes"
    )
    gate.add_argument(
        "--alpha-reject",
        type=float,
        default=0.01,
        metavar="ALPHA",
        help="share of usual images that may be rejected (default: %(default)s)",
    )
    gate.add_argument(
        "--alpha-review",
        type=float,
        default=0.05,
        metavar="ALPHA",
        help="share of usual images that may be rejected or reviewed (default: %(default)s)",
    )
    gate.add_argument(
        "--pac",
        type=float,
        metavar="DELTA",
        help="keep the alphas with chance 1 − DELTA over calibration sets, not only on average",
    )


def data(options: argparse.Namespace) -> Data:
    """Return the folders. Raises BuildRefused for a malformed or repeated --ood."""
    ood: dict[str, Path] = {}
    for word in options.ood:
        name, found, folder = word.partition("=")
        if not (found and name and folder) or name in ood:
            raise BuildRefused(f"--ood {word}: give NAME=DIR, each name once.")
        ood[name] = Path(folder)
    return Data(options.train, options.calibrate, options.test, ood)


def choices(options: argparse.Namespace, recipe: str) -> BuildOptions:
    """Return what was chosen; `recipe` is the command, for the provenance.

    Raises BuildRefused for values out of bounds.
    """
    for name in ("alpha_reject", "alpha_review", "pac"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1:
            raise BuildRefused(f"--{name.replace('_', '-')} {value:g}: give a number in (0, 1).")
    if options.alpha_reject > options.alpha_review:
        raise BuildRefused("--alpha-reject must not be above --alpha-review.")
    return BuildOptions(
        name=options.name,
        version=options.version,
        recipe=recipe,
        fit=FitOptions(
            DistanceOptions(
                normalise=options.distance == "l2-normalised", relative=options.relative
            ),
            GateTarget(options.alpha_reject, options.alpha_review, options.pac),
        ),
        precision=options.precision,
        int8_for=options.int8_for,
        max_drop=options.max_drop,
        labels=_labels(options.labels),
        replace=options.replace,
    )


def _labels(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        return tuple(path.read_text("utf-8").removesuffix("\n").split("\n"))
    except UnicodeDecodeError as error:
        raise BuildRefused(f"{path} is not UTF-8 text.") from error
