"""Stop codecs from writing to stderr, where a client could inject log lines in any number.

libtiff prints each error and warning of a file to stderr, bypassing Python's logging; Pillow
raises exceptions for the same failures. Its other codecs (libjpeg, zlib, libwebp, its own) print
nothing.
"""

from __future__ import annotations

import ctypes
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import features

_MAPS = Path("/proc/self/maps")
# Pillow's wheels contain `libtiff-<hash>.so.6.…`, Linux distributions `libtiff.so.6`.
_LIBTIFF = re.compile(r"/libtiff[-.][^/]*$")
_HANDLERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")


def silence_codecs() -> bool:
    """Remove libtiff's message handlers and Pillow's warnings in this process.

    The libtiff that Pillow loaded is found in the process's list of mapped files. Without such a
    list (macOS, Windows) libtiff keeps its handlers; decoding is unaffected.
    Returns whether every codec is now silent.
    """
    # Pillow warns of every broken tag, in text that a client controls, and Python keeps each text.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    # This logger's only message above debug level repeats a number from the file, then it raises.
    logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)
    if not features.check("libtiff"):
        return True
    quiet = [_remove_handlers(path) for path in _mapped_libtiffs()]
    return bool(quiet) and all(quiet)


def _mapped_libtiffs() -> Iterator[str]:
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for path in dict.fromkeys(line.partition("/")[2] for line in lines):
        if _LIBTIFF.search(f"/{path}"):
            yield f"/{path}"


def _remove_handlers(path: str) -> bool:
    try:
        library = ctypes.CDLL(path)  # already mapped: this only adds a reference
        for name in _HANDLERS:
            setter = getattr(library, name)
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)  # documented by libtiff: without a handler, no messages
    except (OSError, AttributeError):
        return False
    return True
