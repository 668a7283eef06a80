"""The only module that imports torch and the libraries built on it, and only when they are needed.

So all other modules can be imported without torch.
"""

from __future__ import annotations

import importlib
import os
import warnings
from functools import cache
from typing import Any

from tidegate.models.errors import BuildRefused

_INSTALL = "pip install 'tidegate[cpu,torch]' (from a checkout: pip install -e '.[cpu,torch]')"
# Operators of torchvision's compiled part that its Python part looks up during import.
_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@cache
def require(name: str) -> Any:
    """Return torch, torchvision, timm, transformers or one of their modules, imported once.

    Raises BuildRefused, with the install command, if it is missing.
    """
    # Models are read from files only: a name that is not a file must not be fetched from a hub.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about each other, during import
        if name.partition(".")[0] not in ("torch", "onnxscript"):
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
    """Import torchvision, and declare the operators that its compiled part lacks.

    Only its Python part is used, which works even if it was built for another torch. The caller
    must keep the returned objects alive.
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
    return library, _import("torchvision")  # the declarations end with `library`
