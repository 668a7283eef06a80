"""What a test can change for every later test of its process."""

from __future__ import annotations

import gc
import logging
import re
import resource
import signal
import sys
import threading
from pathlib import Path

import numpy as np
from PIL import ImageFile

_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)
_LIMITS = ("RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE")


def process_state() -> dict[str, object]:
    """Return what each file of tests must leave as it was, by what it is."""
    return {
        "loggers": _changed_loggers(),
        "working directory": Path.cwd(),
        "umask": _umask(),
        "signal handlers": {name: signal.getsignal(name) for name in _SIGNALS},
        "resource limits": {name: resource.getrlimit(getattr(resource, name)) for name in _LIMITS},
        "hooks for exceptions": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "garbage collection": (gc.isenabled(), gc.get_threshold()),
        "errors of NumPy": np.geterr(),
        "truncated images are read": ImageFile.LOAD_TRUNCATED_IMAGES,
    }


def _changed_loggers() -> dict[str, tuple[int, bool, bool]]:
    """Return the level of each of Tidegate's loggers that is not as Python makes it."""
    made = (logging.NOTSET, False, True)
    found = {"": (logging.root.level, logging.root.disabled, logging.root.propagate)}
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("tidegate") and isinstance(logger, logging.Logger):
            found[name] = (logger.level, logger.disabled, logger.propagate)
    return {name: state for name, state in found.items() if state != made}


def _umask() -> str | None:
    """Return the process's umask; asking the system for it would change it for a moment."""
    try:
        found = re.search(r"^Umask:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return found and found[1]
