"""Which of two versions is the newer one. Pure: it reads names only."""

from __future__ import annotations

import re

_SEMANTIC = re.compile(r"v?(\d+\.\d+\.\d+)(?:-([a-z0-9.-]+))?")
# In this order at the same place of two versions: 1.0.0-rc.1 < 1.0.0, 3 < 3-b, 1 < b.
_BEFORE_RELEASE, _END, _NUMBER, _WORD = range(4)
Order = tuple[tuple[tuple[int, int, str], ...], str]


def age(version: str) -> Order:
    """Return a key that sorts versions from the oldest to the newest.

    Numbers in a name are compared as numbers: 9 < 10, 1.9.0 < 1.10.0, 2026-9 < 2026-11. A semantic
    version with a suffix is a pre-release: 1.0.0-rc.1 < 1.0.0.
    """
    semantic = _SEMANTIC.fullmatch(version)
    if semantic is None:
        key = _parts(version)
    else:
        release, suffix = semantic.groups()
        before = [] if suffix is None else [(_BEFORE_RELEASE, 0, ""), *_parts(suffix)]
        key = [*_parts(release), *before]
    return (*key, (_END, 0, "")), version


def _parts(text: str) -> list[tuple[int, int, str]]:
    found = re.findall(r"\d+|[a-z]+", text)
    return [(_NUMBER, int(p), "") if p.isdigit() else (_WORD, 0, p) for p in found]
