"""Builds the dialects that an operator has turned on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

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
    """Return the dialects with these names; of routes that two have, the first one's answers."""
    return [_BUILDERS[name](parts) for name in names]
