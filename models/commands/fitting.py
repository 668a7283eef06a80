"""The options that `import` and `fit` share: images, gate, name and precision."""

from __future__ import annotations

import argparse
from pathlib import Path

from tidegate.models.build_request import BuildOptions, Data
from tidegate.models.commands import arguments
from tidegate.models.data import training_data
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting.conformal import GateTarget
from tidegate.models.fitting.fit import FitOptions
from tidegate.models.fitting.mahalanobis import DistanceOptions

_SPLITS = {
    "train": "images to fit the class means on",
    "calibrate": "images to fit the temperature and the gate's thresholds on; not used in training",
    "test": "images to evaluate on",
}


def add_options(options: argparse.ArgumentParser) -> None:
    """Add these options to a command's parser."""
    data = options.add_argument_group(
        "images",
        "ImageFolders, one folder per class, or a list of images. No image may be in two of them.",
    )
    for split, use in _SPLITS.items():
        data.add_argument(f"--{split}", type=Path, metavar="DIR", help=use)
    data.add_argument(
        "--splits",
        type=Path,
        metavar="FILE",
        help="splits.json, which lists the images of the three splits, instead of three folders",
    )
    add_ood(data)
    _add_label_options(data)
    _add_bundle_options(options)


def add_build_options(options: argparse.ArgumentParser) -> None:
    """Add those of them that are not about images with labels."""
    options.set_defaults(labels=None, expect_accuracy=None, accept_label_order=False)
    _add_bundle_options(options)


def add_ood(data: argparse._ArgumentGroup) -> None:
    """Add the sets of images that the gate should reject."""
    data.add_argument(
        "--ood",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="images that the gate should reject, for the evaluation; may be repeated",
    )


def _add_label_options(data: argparse._ArgumentGroup) -> None:
    data.add_argument(
        "--labels", type=Path, metavar="FILE", help="one class label per line, in the model's order"
    )
    data.add_argument(
        "--expect-accuracy",
        type=float,
        metavar="SHARE",
        help="accuracy on --test that training reported, such as 0.93: refuse to seal if it is not "
        "reached",
    )
    data.add_argument(
        "--accept-label-order",
        action="store_true",
        help="seal even if the network recognises classes as each other, as with exchanged labels",
    )


def _add_bundle_options(options: argparse.ArgumentParser) -> None:
    bundle = options.add_argument_group("bundle")
    bundle.add_argument(
        "--name", required=True, help="name of the bundle: lower-case letters, digits, . _ -"
    )
    bundle.add_argument("--version", required=True, help="version of the bundle, same characters")
    arguments.add_out(bundle)
    arguments.add_replace(bundle)
    bundle.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16", "int8"),
        help="precision of the backbone; the gate stays fp32 (default: as imported). bf16 needs "
        "the extra openvino and a CPU with bf16 instructions, here and where it is served",
    )
    bundle.add_argument(
        "--int8-for",
        choices=("cpu", "openvino", "tensorrt"),
        default="cpu",
        help="engine that an int8 backbone is quantised for, as kernels need different formats or "
        "round differently; cpu is ONNX Runtime (default: %(default)s)",
    )
    bundle.add_argument(
        "--max-drop",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="points of accuracy or OOD AUROC that another precision may lose "
        "(default: %(default)s)",
    )
    _add_gate_options(options.add_argument_group("gate"))


def _add_gate_options(gate: argparse._ArgumentGroup) -> None:
    gate.add_argument(
        "--distance",
        choices=("l2-normalised", "raw"),
        help="features for the Mahalanobis score (default: chosen like the scores that decide)",
    )
    gate.add_argument(
        "--relative",
        action=argparse.BooleanOptionalAction,
        help="subtract the distance under one normal distribution of all classes "
        "(default: chosen likewise)",
    )
    gate.add_argument(
        "--alpha-reject",
        type=float,
        default=0.01,
        metavar="ALPHA",
        help="share of in-distribution images that may be rejected (default: %(default)s)",
    )
    gate.add_argument(
        "--alpha-review",
        type=float,
        default=0.05,
        metavar="ALPHA",
        help="share of in-distribution images rejected or marked for review (default: %(default)s)",
    )
    gate.add_argument(
        "--pac",
        type=float,
        metavar="DELTA",
        help="guarantee the alphas with probability 1 − DELTA over calibration sets, "
        "not only on average",
    )
    arguments.add_accept_weak_gate(gate)


def data(options: argparse.Namespace) -> Data:
    """Return the images. Raises BuildRefused if a split is missing or --ood is malformed."""
    folders = {split: getattr(options, split) for split in _SPLITS}
    missing = [f"--{split}" for split, folder in folders.items() if folder is None]
    if options.splits is None:
        if missing:
            raise BuildRefused(
                f"Give {', '.join(missing)}, or --splits FILE, which lists the images of all three."
            )
        return Data(**folders, ood=ood(options))
    if len(missing) < len(folders):
        raise BuildRefused("Give --splits FILE or --train, --calibrate and --test, not both.")
    return Data.of(training_data.read(options.splits), ood(options))


def ood(options: argparse.Namespace) -> dict[str, Path]:
    """Return the sets of --ood by name. Raises BuildRefused for a malformed or repeated one."""
    sets: dict[str, Path] = {}
    for word in options.ood:
        name, found, folder = word.partition("=")
        if not (found and name and folder) or name in sets:
            raise BuildRefused(f"--ood {word}: give NAME=DIR, each name once.")
        sets[name] = Path(folder)
    return sets


def build_options(options: argparse.Namespace, recipe: str) -> BuildOptions:
    """Return the build options; `recipe` is the command, for the provenance.

    Raises BuildRefused for values out of bounds.
    """
    for name in ("alpha_reject", "alpha_review", "pac", "expect_accuracy"):
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
                normalise=None if options.distance is None else options.distance != "raw",
                relative=options.relative,
            ),
            GateTarget(options.alpha_reject, options.alpha_review, options.pac),
            accept_label_order=options.accept_label_order,
        ),
        precision=options.precision,
        int8_for=options.int8_for,
        max_drop=options.max_drop,
        labels=_labels(options.labels),
        replace=options.replace,
        accept_weak_gate=options.accept_weak_gate,
        expect_accuracy=options.expect_accuracy,
    )


def _labels(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        # utf-8-sig: some editors begin a file with an invisible byte order mark.
        lines = path.read_text("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise BuildRefused(f"{path} is not UTF-8 text.") from error
    except OSError as error:
        raise BuildRefused(f"--labels {path} cannot be read: {error.strerror}.") from error
    return tuple(line.removesuffix("\r") for line in lines)
