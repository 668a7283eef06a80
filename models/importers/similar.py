"""Name what a user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 5


def similar(name: str, known: Iterable[str]) -> str:
    """Return "; similar: resnet50, …" with the names of `known` that look like `name`, or ""."""
    plain = {_plain(other): other for other in known}
    asked = _plain(name.partition(".")[0])
    found = [plain[near] for near in difflib.get_close_matches(asked, plain, n=_SHOWN)]
    found += [other for key, other in plain.items() if asked in key and other not in found]
    return f"; similar: {', '.join(found[:_SHOWN])}" if found else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
