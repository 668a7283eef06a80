"""TensorFlow, Keras and tf2onnx, imported when a model of theirs is; the only door to them."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from functools import cache
from typing import Any

from tidegate.models.errors import BuildRefused

_INSTALL = "pip install 'tensorflow>=2.18,<3' 'keras>=3,<4' 'tf2onnx>=1.17,<2'"
_LOGGERS = ("tensorflow", "tf2onnx", "absl")


@cache
def require(name: str) -> Any:
    """Return tensorflow, keras, tf2onnx or a module of theirs, imported once.

    Raises BuildRefused, with the command that installs it, when it is missing.
    """
    # Read by the compiled parts while they are imported; what fails is raised as well as logged.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for logger in _LOGGERS:
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what these libraries say of each other while imported
        try:
            return importlib.import_module(name)
        except ImportError as error:  # Keras raises the bare class when its backend is missing
            missing = (error.name or name).partition(".")[0]
            raise BuildRefused(f"{missing} is not installed: {_INSTALL}.") from error
