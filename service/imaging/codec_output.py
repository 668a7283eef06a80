"""No codec writes to stderr: a client would word the lines, and choose how many.

libtiff prints each error and warning of a file there, past Python's logging; Pillow reports the
same failures as exceptions. Pillow's other codecs (libjpeg, zlib, libwebp, its own) print nothing.
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
# Pillow's wheels carry `libtiff-<hash>.so.6.…`, distributions have `libtiff.so.6`.
_LIBTIFF = re.compile(r"/libtiff[-.][^/]*$")
_HANDLERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")


def silence_codecs() -> bool:
    """Stop libtiff and Pillow from reporting anything but by exceptions, in this whole process.

    The libtiff is the one that Pillow has loaded, by the process's list of mapped files. Without
    such a list (macOS, Windows) libtiff keeps its handlers, and decoding is the same.
    Returns whether no codec is left that prints.
    """
    # It warns of every broken tag, in words a client chooses, and Python keeps each text for ever.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    # Its one message above debug level repeats a number of the file and then raises.
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
        library = ctypes.CDLL(path)  # mapped already: this adds a reference and loads nothing
        for name in _HANDLERS:
            setter = getattr(library, name)
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)  # as libtiff documents: no handler, no message
    except (OSError, AttributeError):
        return False
    return True
