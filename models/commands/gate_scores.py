"""`tidegate gate-scores`: compare the scores that decide with each single one, on seven models."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tidegate.models.benchmarks import efficientnet_lite
from tidegate.models.benchmarks.gates import (
    demo,
    drawn,
    emoji,
    photographs,
    probe,
    small,
    transformer,
)
from tidegate.models.benchmarks.gates.measure import Row, measure
from tidegate.models.benchmarks.gates.report import Figures, figures, tables
from tidegate.models.build_request import Data
from tidegate.models.commands import arguments, digits, import_model
from tidegate.models.data.folders import Source
from tidegate.models.digits.images import data as digit_images
from tidegate.models.errors import BuildRefused
from tidegate.models.package_files import DOWNLOADS

_FOLDER = DOWNLOADS / "gate-scores"
_Write = Callable[[Source, Path], list[str]]


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate gate-scores",
        description="Build seven bundles, and measure how well the scores that decide separate OOD "
        "images that took no part in the choice, compared with each score alone. Fetches images "
        "and networks with apt-get, npm and pip. A bundle that exists is measured again, "
        "not built.",
    )
    options.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=f"{', '.join(_ROWS)} (default: all); small and digits need torch",
    )
    arguments.add_out(options)
    options.add_argument(
        "--json", type=Path, help="a file for the results; those of other models stay in it"
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Print the tables, and write the results."""
    names = options.models or list(_ROWS)
    if unknown := set(names) - set(_ROWS):
        raise BuildRefused(f"No model {min(unknown)!r}: give some of {', '.join(_ROWS)}.")
    measured: dict[str, Figures] = {}
    if options.json and options.json.exists():
        measured = json.loads(options.json.read_text("utf-8"))
    for name in names:
        measured[name] = figures(_ROWS[name](options.out))
        if options.json:
            every = {name: measured[name] for name in _ROWS if name in measured}
            options.json.write_text(json.dumps(every, indent=1) + "\n", "utf-8")
    print(tables([measured[name] for name in names]))


def _demo(_: Path) -> Row:
    return demo.row(DOWNLOADS, drawn.data(_FOLDER / "drawn"))


def _digits(out: Path) -> Row:
    bundle = out / "digits" / "1"
    if not bundle.exists():
        digits.run(digits.parser().parse_args(["--out", str(out)]))
    folders = digit_images()
    return measure(bundle, Data(folders.train, folders.calibrate, folders.test))


def _emoji(name: str, write: _Write, out: Path) -> Row:
    images = emoji.data(_FOLDER / "emoji")
    return measure(_imported(f"emoji-{name}", write, images, out), images)


def _photographs(name: str, write: _Write, out: Path) -> Row:
    images = photographs.data(_FOLDER / "photographs")
    bundle = _imported(f"photographs-{name}", write, images, out)
    return measure(bundle, images, drawn.data(_FOLDER / "drawn"))


def _imported(name: str, write: _Write, images: Data, out: Path) -> Path:
    """Return a bundle, imported if it does not exist yet.

    `write` makes the network's files from the training images, and returns the arguments to import
    them.
    """
    bundle, folder = out / name / "1", _FOLDER / name
    if not bundle.exists():
        folder.mkdir(parents=True, exist_ok=True)
        splits = [f"--{split}={getattr(images, split)}" for split in ("train", "calibrate", "test")]
        words = [*write(images.train, folder), *splits, f"--name={name}", "--version=1"]
        import_model.run(import_model.parser().parse_args([*words, f"--out={out}"]))
    return bundle


def _convnet(train: Source, folder: Path) -> list[str]:
    encoder, spec = efficientnet_lite.encoder("lite1"), efficientnet_lite.spec("lite1")
    return probe.write(encoder, spec, train, folder)


def _transformer(train: Source, folder: Path) -> list[str]:
    return probe.write(transformer.encoder(), transformer.SPEC, train, folder)


_ROWS: dict[str, Callable[[Path], Row]] = {
    "demo": _demo,
    "digits": _digits,
    "convnet": partial(_emoji, "convnet", _convnet),
    "transformer": partial(_emoji, "transformer", _transformer),
    "small": partial(_emoji, "small", small.write),
    "photographs-convnet": partial(_photographs, "convnet", _convnet),
    "photographs-transformer": partial(_photographs, "transformer", _transformer),
}
