"""Torch and the libraries on it, imported when a model of theirs is; the only door to them.

Modules elsewhere stay importable without torch: what needs it asks here, at the moment it does.
"""

from __future__ import annotations

import importlib
import os
import warnings
from functools import cache
from typing import Any

from tidegate.models.errors import BuildRefused

_INSTALL = "pip install 'tidegate[cpu,torch]' (from a checkout: pip install -e '.[cpu,torch]')"
# What torchvision's compiled part would declare, and its Python part looks up while imported.
_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@cache
def require(name: str) -> Any:
    """Return torch, torchvision, timm, transformers or a module of theirs, imported once.

    Raises BuildRefused, with the command that installs it, when it is missing.
    """
    # Everything here is read from files: a name that is not one must not be fetched from a hub.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what these libraries say of each other while imported
        if name != "torch" and not name.startswith("torch."):
            _import_torchvision()
        return _import(name)


def version(name: str) -> str:
    """Return "timm 1.0.31" for "timm"."""
    return f"{name} {str(require(name).__version__).partition('+')[0]}"


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise BuildRefused(f"{missing} is not installed: {_INSTALL}.") from error


@cache
def _import_torchvision() -> tuple[Any, ...]:
    """Import torchvision, declaring the operators its compiled part lacks; returns what to keep.

    A torchvision built for another torch still has all that is used here, its Python part.
    """
    torch = _import("torch")
    try:
        return (_import("torchvision"),)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "DEF")
    for operator in _OPERATORS:
        library.define(operator + _SIGNATURE)
    return library, _import("torchvision")  # the declarations live as long as `library` does
