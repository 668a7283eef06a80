"""API keys for a server that is measured."""

import hashlib
from pathlib import Path


def write_keys(path: Path, number: int) -> Path:
    """Write a file with this many keys; the one of `with_key` is the last."""
    digests = [hashlib.sha256(_key(index).encode()).hexdigest() for index in range(number)]
    lines = [f"client-{index} {digest} classify" for index, digest in enumerate(reversed(digests))]
    path.write_text("\n".join([*lines, ""]), encoding="ascii")
    return path


def with_key(request: bytes) -> bytes:
    """Return a request with a key in its head."""
    head, end, body = request.partition(b"\r\n\r\n")
    return head + b"\r\nAuthorization: Bearer " + _key(0).encode() + end + body


def _key(index: int) -> str:
    return f"tidegate_{index:043d}"  # as long as a real one
