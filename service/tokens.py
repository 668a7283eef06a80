"""Bearer tokens in files."""

from __future__ import annotations

from pathlib import Path

from tidegate.service.files import read_small

_MAX_TOKEN_BYTES = 4096
_MAX_FILE_BYTES = 1 << 16


def read_token(path: Path) -> bytes:
    """Return the token in a file, stripped of white space.

    Raises ValueError with the reason. Secrets are often mounted as links, so only the target must
    be a regular file.
    """
    try:
        token = read_small(path, _MAX_FILE_BYTES).strip()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    if not token:
        raise ValueError("the file is empty; write a token into it")
    if len(token) > _MAX_TOKEN_BYTES or not all(0x21 <= byte <= 0x7E for byte in token):
        raise ValueError(
            f"a token must be at most {_MAX_TOKEN_BYTES} printable ASCII characters without spaces"
        )
    return token
