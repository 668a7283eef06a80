"""`tidegate import SOURCE`: a trained model and image folders to a sealed bundle."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tidegate.models.commands import fitting
from tidegate.models.errors import BuildRefused
from tidegate.models.importers.base import Imported
from tidegate.models.pipeline import make

_EPILOG = """SOURCE is one of
  timm:NAME            a timm model with --checkpoint, or timm:local-dir:FOLDER
  torchvision:NAME     a torchvision model with --checkpoint; --weights names the preprocessing
  huggingface:FOLDER   a folder with config.json, preprocessor_config.json and the weights
  keras:PATH           a .keras or .h5 file or a SavedModel folder, with --spec
  onnx:FILE            an ONNX graph, with --spec
"""


_TORCH = ("timm", "torchvision")
# Options that only some kinds of source take: with another they would be forgotten in silence.
_ONLY_FOR = {
    **dict.fromkeys(("checkpoint", "state_dict", "classes", "random_weights"), _TORCH),
    **dict.fromkeys(("size", "crop_pct", "crop_mode", "interpolation", "mean", "std"), ("timm",)),
    **dict.fromkeys(("features", "spec"), ("keras", "onnx")),
    "backend": (*_TORCH, "huggingface"),
    "weights": ("torchvision",),
}


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate import",
        description="Import a trained classifier, prove its preprocessing, fit its gate, evaluate "
        "it and seal it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("source", metavar="SOURCE", help="what to import, see below")
    model = options.add_argument_group("model")
    model.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="weights, .pt or .safetensors"
    )
    model.add_argument(
        "--state-dict",
        metavar="KEY",
        help="where in the checkpoint the weights are, if it is asked",
    )
    model.add_argument("--classes", type=int, metavar="N", help="where the weights do not tell")
    model.add_argument(
        "--random-weights", action="store_true", help="no checkpoint: for trying things out"
    )
    model.add_argument(
        "--features", metavar="TENSOR", help="the penultimate layer, where it is not found"
    )
    model.add_argument("--licence", help="of the weights, for the model card")
    spec = options.add_argument_group("preprocessing")
    spec.add_argument("--weights", metavar="ENTRY", help="torchvision: IMAGENET1K_V2, say")
    spec.add_argument("--spec", type=Path, metavar="JSON", help="keras, onnx: the preprocessing")
    spec.add_argument(
        "--backend", choices=("pillow", "torch"), help="what resized when the model was trained"
    )
    spec.add_argument("--size", type=int, metavar="PIXELS", help="timm: another input size")
    spec.add_argument("--crop-pct", type=float, metavar="SHARE", help="timm: another crop share")
    spec.add_argument("--crop-mode", choices=("center", "squash"), help="timm: another crop mode")
    spec.add_argument("--interpolation", metavar="FILTER", help="timm: another filter")
    for name in ("--mean", "--std"):
        spec.add_argument(
            name, type=float, nargs=3, metavar="X", help="timm: another one, of values in 0 to 1"
        )
    spec.add_argument(
        "--exif", choices=("apply", "ignore"), help="serve otherwise than the training loaded"
    )
    spec.add_argument("--alpha", choices=("drop", "composite-white", "composite-black"))
    spec.add_argument("--sixteen-bit", choices=("scale", "clip"))
    spec.add_argument(
        "--allow-difference",
        action="store_true",
        help="seal preprocessing that differs from the library's; the card tells by how much",
    )
    fitting.add_options(options)
    return options


def run(options: argparse.Namespace) -> None:
    """Import, fit, seal, and print the bundle's folder."""
    data = fitting.data(options)
    chosen = replace(
        fitting.choices(options, f"tidegate import {_told(options)}"),
        allow_difference=options.allow_difference,
        overrides={
            name: value
            for name, value in (
                ("exif_orientation", options.exif),
                ("alpha", options.alpha),
                ("sixteen_bit", options.sixteen_bit),
            )
            if value
        },
    )
    imported = load(options)
    if options.licence:
        imported = replace(imported, licence=options.licence)
    print(make(imported, data, chosen, options.out).path)


def load(options: argparse.Namespace) -> Imported:
    """Return the model that SOURCE names.

    Raises BuildRefused for an unknown kind of source, or an option that is not for it.
    """
    kind, _, name = options.source.partition(":")
    if kind not in _KINDS or not name:
        raise BuildRefused(
            f"{options.source!r} is no source: say one of {', '.join(f'{k}:…' for k in _KINDS)}."
        )
    for option, kinds in _ONLY_FOR.items():
        if getattr(options, option) and kind not in kinds:
            raise BuildRefused(
                f"--{option.replace('_', '-')} is for {' and '.join(kinds)}, not for {kind}."
            )
    return _KINDS[kind](name, options)


def _timm(name: str, options: argparse.Namespace) -> Imported:
    module = _importer("from_timm")
    overrides = module.Overrides(
        size=options.size,
        crop_pct=options.crop_pct,
        crop_mode=options.crop_mode,
        interpolation=options.interpolation,
        mean=options.mean and tuple(options.mean),
        std=options.std and tuple(options.std),
    )
    return module.load(name, **_torch(options), overrides=overrides)  # type: ignore[no-any-return]  # a module by its name


def _torchvision(name: str, options: argparse.Namespace) -> Imported:
    return _importer("from_torchvision").load(  # type: ignore[no-any-return]  # likewise
        name, **_torch(options), weights=options.weights
    )


def _huggingface(name: str, options: argparse.Namespace) -> Imported:
    return _importer("from_huggingface").load(Path(name), backend=options.backend)  # type: ignore[no-any-return]  # likewise


def _keras(name: str, options: argparse.Namespace) -> Imported:
    return _importer("from_keras").load(  # type: ignore[no-any-return]  # likewise
        Path(name), _spec(options), features=options.features
    )


def _onnx(name: str, options: argparse.Namespace) -> Imported:
    return _importer("from_onnx").load(  # type: ignore[no-any-return]  # likewise
        Path(name), _spec(options), features=options.features
    )


_KINDS: dict[str, Callable[[str, argparse.Namespace], Imported]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "huggingface": _huggingface,
    "keras": _keras,
    "onnx": _onnx,
}


def _importer(name: str) -> Any:
    """Import one importer's module: what the others need may be missing here."""
    return importlib.import_module(f"tidegate.models.importers.{name}")


def _torch(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "checkpoint": options.checkpoint,
        "state_dict": options.state_dict,
        "classes": options.classes,
        "backend": options.backend,
        "random_weights": options.random_weights,
    }


def _spec(options: argparse.Namespace) -> Path:
    if options.spec is None:
        raise BuildRefused(
            "This file does not say how its images are preprocessed: give --spec FILE.json "
            "(models/README.md tells its form)."
        )
    return Path(options.spec)


def _told(options: argparse.Namespace) -> str:
    """Return the source without the folders of whoever made the bundle."""
    kind, _, name = options.source.partition(":")
    return f"{kind}:{Path(name).name}"
