"""Load the transforms of a team's own training code, `FILE.py:NAME` or `MODULE:NAME`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import FunctionType, ModuleType

from tidegate.models.errors import BuildRefused

_USE = "give FILE.py:NAME or MODULE:NAME, where NAME is a Compose, or a function that returns one"


def load(word: str) -> object:
    """Return what `word` names: transforms, or what the function of that name returns.

    The module is run, as in training. Raises BuildRefused if it cannot be, or has no such name.
    """
    where, found, name = word.rpartition(":")
    if not (found and where and name.isidentifier()):
        raise BuildRefused(f"--transforms {word}: {_USE}.")
    module = _module(where)
    if not hasattr(module, name):
        raise BuildRefused(f"--transforms {word}: {where} has no {name}; {_USE}.")
    transforms = getattr(module, name)
    if not isinstance(transforms, FunctionType):
        return transforms
    try:
        return transforms()
    except Exception as error:  # a user's code raises anything
        raise BuildRefused(f"--transforms {word}: {name}() raises {_named(error)}.") from error


def _module(where: str) -> ModuleType:
    file = Path(where)
    try:
        if file.suffix != ".py":
            sys.path.insert(0, "")  # as `python -m` does
            return importlib.import_module(where)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:  # likewise
        raise BuildRefused(f"--transforms: {where} cannot be imported: {_named(error)}.") from error
    return module


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".")
