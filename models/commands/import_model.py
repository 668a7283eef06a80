"""`tidegate import SOURCE`: build a sealed bundle from a trained model and image folders."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tidegate.models.build_request import check_data, check_destination
from tidegate.models.commands import fitting
from tidegate.models.errors import BuildRefused
from tidegate.models.importers import probe_tensors, spec_file
from tidegate.models.importers.base import Imported, Preprocessing
from tidegate.models.pipeline import make

_EPILOG = """SOURCE is one of
  timm:NAME            a timm model with --checkpoint, or timm:local-dir:FOLDER
  torchvision:NAME     a torchvision model with --checkpoint; --weights names the preprocessing
  huggingface:FOLDER   a folder with config.json, preprocessor_config.json and the weights
  keras:PATH           a .keras or .h5 file or a SavedModel folder, with --spec
  onnx:FILE            an ONNX graph, with --spec
"""


_TORCH = ("timm", "torchvision")
# Options for only some kinds of source: an error elsewhere, rather than silently ignored.
_ONLY_FOR = {
    **dict.fromkeys(("checkpoint", "state_dict", "classes", "random_weights"), _TORCH),
    **dict.fromkeys(("size", "crop_pct", "crop_mode", "interpolation", "mean", "std"), ("timm",)),
    "features": ("keras", "onnx"),
    **dict.fromkeys(("spec", "probe_tensors"), (*_TORCH, "keras", "onnx")),
    "backend": (*_TORCH, "huggingface"),
    "weights": ("torchvision",),
    "transforms": _TORCH,
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
    options.add_argument("source", metavar="SOURCE", help="model to import, see below")
    _add_model_options(options.add_argument_group("model"))
    _add_preprocessing_options(options.add_argument_group("preprocessing"))
    fitting.add_options(options)
    return options


def _add_model_options(model: argparse._ArgumentGroup) -> None:
    model.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="weights, .pt or .safetensors"
    )
    model.add_argument(
        "--state-dict",
        metavar="KEY",
        help="entry or prefix of the checkpoint's weights, if there are several (default: the "
        "averaged ones, ema or swa)",
    )
    model.add_argument(
        "--classes", type=int, metavar="N", help="number of classes, if the weights do not show it"
    )
    model.add_argument(
        "--random-weights",
        action="store_true",
        help="untrained weights, to try the import without a checkpoint",
    )
    model.add_argument(
        "--features",
        metavar="TENSOR",
        help="tensor of the penultimate layer, if it is not detected",
    )
    model.add_argument("--licence", help="licence of the weights, for the model card")


def _add_preprocessing_options(spec: argparse._ArgumentGroup) -> None:
    spec.add_argument(
        "--weights", metavar="ENTRY", help="torchvision: weights entry, such as IMAGENET1K_V2"
    )
    spec.add_argument(
        "--transforms",
        metavar="FILE.py:NAME",
        help="timm, torchvision: your own torchvision transforms of the evaluation, a Compose or a "
        "function that returns one; the file is run",
    )
    spec.add_argument(
        "--spec", type=Path, metavar="JSON", help="file that states the preprocessing"
    )
    spec.add_argument(
        "--probe-tensors",
        type=Path,
        metavar="NPZ",
        help="what the data loader of the training made of `tidegate probe-images`: proves --spec",
    )
    spec.add_argument(
        "--backend", choices=("pillow", "torch"), help="library that resized the images in training"
    )
    spec.add_argument(
        "--size", type=int, metavar="PIXELS", help="timm: input size, instead of the model's"
    )
    spec.add_argument(
        "--crop-pct",
        type=float,
        metavar="SHARE",
        help="timm: crop fraction, instead of the model's",
    )
    spec.add_argument(
        "--crop-mode",
        choices=("center", "squash", "border"),
        help="timm: crop mode, instead of the model's",
    )
    spec.add_argument(
        "--interpolation", metavar="FILTER", help="timm: resize filter, instead of the model's"
    )
    for name in ("--mean", "--std"):
        spec.add_argument(
            name,
            type=float,
            nargs=3,
            metavar="X",
            help=f"timm: {name[2:]} of values from 0 to 1, instead of the model's",
        )
    spec.add_argument(
        "--exif",
        choices=("apply", "ignore"),
        help="EXIF orientation when serving, if it differs from training",
    )
    spec.add_argument(
        "--alpha",
        choices=("drop", "composite-white", "composite-black"),
        help="transparency when serving, if it differs from training",
    )
    spec.add_argument(
        "--sixteen-bit",
        choices=("scale", "clip"),
        help="16-bit images when serving, if it differs from training",
    )
    spec.add_argument(
        "--allow-difference",
        action="store_true",
        help="seal even if the preprocessing differs from the library's; the card shows the amount",
    )


def run(options: argparse.Namespace) -> None:
    """Import, fit and seal, and print the bundle's folder."""
    data = fitting.data(options)
    chosen = replace(
        fitting.build_options(options, f"tidegate import {_source_name(options)}"),
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
    _check_source(options)
    check_destination(chosen, options.out)
    check_data(data, chosen)
    _check_files(options)
    imported = load(options)
    if options.licence:
        imported = replace(imported, licence=options.licence)
    print(make(imported, data, chosen, options.out).path)


def _check_source(options: argparse.Namespace) -> None:
    """Raise BuildRefused for an unknown kind of source, or for an option of another kind."""
    kind, _, name = options.source.partition(":")
    if kind not in _KINDS or not name:
        raise BuildRefused(
            f"Unknown source {options.source!r}: use one of {', '.join(f'{k}:…' for k in _KINDS)}."
        )
    for option, kinds in _ONLY_FOR.items():
        if getattr(options, option) and kind not in kinds:
            raise BuildRefused(
                f"--{option.replace('_', '-')} is for {' and '.join(kinds)}, not for {kind}."
            )
    if kind in ("keras", "onnx") or options.probe_tensors:
        _spec(options)
    elif options.spec and not options.probe_tensors:
        raise BuildRefused(
            f"--spec for {kind} needs its proof: let your data loader turn the images of `tidegate "
            "probe-images` into tensors, and give them as --probe-tensors "
            "(docs/guides/own-model.md)."
        )
    if options.spec and options.transforms:
        raise BuildRefused("Give --spec or --transforms, not both.")


def _check_files(options: argparse.Namespace) -> None:
    """Raise BuildRefused for a file that is missing, before a library is imported."""
    kind, _, name = options.source.partition(":")
    files = [options.checkpoint, options.spec, options.probe_tensors]
    if kind in ("keras", "onnx", "huggingface"):
        files.append(Path(name))
    elif name.startswith("local-dir:"):
        files.append(Path(name.removeprefix("local-dir:")))
    for file in filter(None, files):
        if not file.exists():
            raise BuildRefused(f"{file} does not exist.")


def load(options: argparse.Namespace) -> Imported:
    """Return the model that SOURCE names."""
    kind, _, name = options.source.partition(":")
    imported = _KINDS[kind](name, options)
    if options.probe_tensors and kind in ("keras", "onnx"):
        tensors = probe_tensors.preprocessing(options.probe_tensors, imported.spec)
        return replace(imported, transform=tensors.transform)
    return imported


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
    return module.load(name, **_torch(options), overrides=overrides)  # type: ignore[no-any-return]  # imported by name


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
    """Import one importer's module, as the other importers' libraries may be missing."""
    return importlib.import_module(f"tidegate.models.importers.{name}")


def _torch(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "checkpoint": options.checkpoint,
        "state_dict": options.state_dict,
        "classes": options.classes,
        "backend": options.backend,
        "random_weights": options.random_weights,
        "own": _own(options),
    }


def _own(options: argparse.Namespace) -> Preprocessing | None:
    """Return the preprocessing that the user states for a torch model, if any."""
    if options.transforms:
        # The file imports torchvision itself, which may need what `require` declares.
        _importer("torch_runtime").require("torchvision")
        transforms = _importer("user_transforms").load(options.transforms)
        return _importer("torchvision_transforms").translate(transforms, options.backend)  # type: ignore[no-any-return]  # imported by name
    if options.probe_tensors:
        return probe_tensors.preprocessing(options.probe_tensors, spec_file.read(options.spec).spec)
    return None


def _spec(options: argparse.Namespace) -> Path:
    if options.spec is None:
        raise BuildRefused(
            "This file does not contain its preprocessing: give --spec FILE.json "
            "(its format: docs/guides/own-model.md)."
        )
    return Path(options.spec)


def _source_name(options: argparse.Namespace) -> str:
    """Return the source without the folders of the build machine, for the provenance."""
    kind, _, name = options.source.partition(":")
    return f"{kind}:{Path(name).name}"
