"""Builds the dialects that an operator has turned on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fastapi.routing import APIRoute

from tidegate.service.api.dialects import huggingface, sagemaker, torchserve, v1, vertex
from tidegate.service.api.dialects.base import Dialect, Parts
from tidegate.service.api.dialects.names import (
    HUGGINGFACE,
    SAGEMAKER,
    TORCHSERVE,
    V1,
    V2,
    VERTEX,
)
from tidegate.service.api.dialects.v2 import routes as v2

_BUILDERS: Mapping[str, Callable[[Parts], Dialect]] = {
    V2: v2.dialect,
    V1: v1.dialect,
    SAGEMAKER: sagemaker.dialect,
    VERTEX: vertex.dialect,
    HUGGINGFACE: huggingface.dialect,
    TORCHSERVE: torchserve.dialect,
}


def build(names: Iterable[str], parts: Parts) -> list[Dialect]:
    """Return the dialects with these names; a route that several have is the first one's."""
    dialects = [_BUILDERS[name](parts) for name in names]
    seen: set[tuple[str, str]] = set()
    for dialect in dialects:
        kept = []
        for route in dialect.router.routes:
            assert isinstance(route, APIRoute)  # noqa: S101 - dialects have no others
            own = {(route.path_format, method) for method in route.methods or ()}
            if not own & seen:
                kept.append(route)
                seen |= own
        dialect.router.routes[:] = kept
    return dialects
