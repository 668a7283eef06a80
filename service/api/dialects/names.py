"""The dialects that exist, by name, as TIDEGATE_DIALECTS lists them."""

from __future__ import annotations

import difflib

V2, V1 = "v2", "v1"
SAGEMAKER, VERTEX = "sagemaker", "vertex"
HUGGINGFACE, TORCHSERVE = "huggingface", "torchserve"
NAMES = (V2, V1, SAGEMAKER, VERTEX, HUGGINGFACE, TORCHSERVE)
NONE = "none"


def parse_names(text: str) -> tuple[str, ...]:
    """Return the dialects in a comma-separated list; `none` is the empty list.

    Raises ValueError for an unknown name, with the nearest known one, and for one listed twice.
    """
    given = [name.strip() for name in text.split(",") if name.strip()]
    if given == [NONE]:
        return ()
    for name in given:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"there is no dialect {name!r}{hint} (one of: {', '.join(NAMES)})")
        if given.count(name) > 1:
            raise ValueError(f"the dialect {name} is listed twice")
    return tuple(given)
