"""Bearer tokens in files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_MAX_TOKEN_BYTES = 4096


def read_token(path: Path) -> bytes:
    """Return the token in a file, stripped of white space.

    Raises ValueError with the reason. Secrets are often mounted as links, so only the target must
    be a regular file.
    """
    try:
        # Without waiting, as the file could be a pipe.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("it is not a regular file")
            token = file.read(_MAX_TOKEN_BYTES + 1).strip()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    if not token:
        raise ValueError("the file is empty; write a token into it")
    if len(token) > _MAX_TOKEN_BYTES or not all(0x21 <= byte <= 0x7E for byte in token):
        raise ValueError(
            f"a token must be at most {_MAX_TOKEN_BYTES} printable ASCII characters without spaces"
        )
    return token
