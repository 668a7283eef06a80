"""The only module that imports TensorFlow, Keras and tf2onnx, and only when they are needed."""

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
    """Return tensorflow, keras, tf2onnx or one of their modules, imported once.

    Raises BuildRefused, with the install command, if it is missing.
    """
    # Read during import by the compiled parts. Failures are raised, so the log lines add nothing.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for logger in _LOGGERS:
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about each other, during import
        try:
            return importlib.import_module(name)
        except ImportError as error:  # Keras raises the base class if its backend is missing
            missing = (error.name or name).partition(".")[0]
            raise BuildRefused(f"{missing} is not installed: {_INSTALL}.") from error
