"""`tidegate gate-scores`: compare the scores that decide with each single one, on five models."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tidegate.models.benchmarks import efficientnet_lite
from tidegate.models.benchmarks.gates import demo, emoji, probe, small, transformer
from tidegate.models.benchmarks.gates.measure import Row, measure, tables
from tidegate.models.build_request import Data
from tidegate.models.commands import arguments, digits, import_model
from tidegate.models.digits.images import data as digit_images
from tidegate.models.errors import BuildRefused
from tidegate.models.package_files import DOWNLOADS

_FOLDER = DOWNLOADS / "gate-scores"


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate gate-scores",
        description="Build five bundles, and measure how well the scores that decide separate OOD "
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
    return options


def run(options: argparse.Namespace) -> None:
    """Print the two tables."""
    names = options.models or list(_ROWS)
    if unknown := set(names) - set(_ROWS):
        raise BuildRefused(f"No model {min(unknown)!r}: give some of {', '.join(_ROWS)}.")
    print(tables([_ROWS[name](options.out) for name in names]))


def _demo(_: Path) -> Row:
    return demo.row(DOWNLOADS)


def _digits(out: Path) -> Row:
    bundle = out / "digits" / "1"
    if not bundle.exists():
        digits.run(digits.parser().parse_args(["--out", str(out)]))
    folders = digit_images()
    return measure(bundle, Data(folders.train, folders.calibrate, folders.test))


def _imported(name: str, write: Callable[[Path, Path], list[str]], out: Path) -> Row:
    """Measure a network for emoji; `write` makes its files and returns the import's arguments."""
    images, bundle = emoji.data(_FOLDER / "emoji"), out / f"emoji-{name}" / "1"
    if not bundle.exists():
        folder = _FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        splits = [f"--{split}={getattr(images, split)}" for split in ("train", "calibrate", "test")]
        words = [*write(images.train, folder), *splits, f"--name=emoji-{name}", "--version=1"]
        import_model.run(import_model.parser().parse_args([*words, f"--out={out}"]))
    return measure(bundle, images)


def _convnet(train: Path, folder: Path) -> list[str]:
    encoder, spec = efficientnet_lite.encoder("lite1"), efficientnet_lite.spec("lite1")
    return probe.write(encoder, spec, train, folder)


def _transformer(train: Path, folder: Path) -> list[str]:
    return probe.write(transformer.encoder(), transformer.SPEC, train, folder)


_ROWS: dict[str, Callable[[Path], Row]] = {
    "demo": _demo,
    "digits": _digits,
    "convnet": partial(_imported, "convnet", _convnet),
    "transformer": partial(_imported, "transformer", _transformer),
    "small": partial(_imported, "small", small.write),
}
