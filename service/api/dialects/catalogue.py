"""Builds the dialects that an operator has turned on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tidegate.service.api.dialects.base import Dialect, Parts
from tidegate.service.api.dialects.names import V2
from tidegate.service.api.dialects.v2 import routes as v2

_BUILDERS: Mapping[str, Callable[[Parts], Dialect]] = {V2: v2.dialect}


def build(names: Iterable[str], parts: Parts) -> list[Dialect]:
    """Return the dialects with these names."""
    return [_BUILDERS[name](parts) for name in names]
