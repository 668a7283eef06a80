"""A monitor's state as named arrays, and what it never contains."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

State = dict[str, NDArray[np.generic]]

_MOST_IMAGES = 2**53  # beyond it a float64 cannot represent every integer


def named(name: str, part: Mapping[str, NDArray[np.generic]]) -> State:
    """Return the arrays of a part under names of the whole state."""
    return {f"{name}.{field}": array for field, array in part.items()}


def part_of(state: State, name: str) -> State:
    """Return the arrays that `named` put into the state, under their own names."""
    prefix = f"{name}."
    return {
        field.removeprefix(prefix): array
        for field, array in state.items()
        if field.startswith(prefix)
    }


def checked(state: Mapping[str, NDArray[np.generic]], like: State) -> State:
    """Return the arrays of `state` that `like` has.

    Raises KeyError if one is missing, and ValueError if one has another shape or type, or a value
    that a monitor's never has.
    """
    found = {name: np.asarray(state[name]) for name in like}
    for name, array in like.items():
        if found[name].shape != array.shape or found[name].dtype != array.dtype:
            raise ValueError(f"{name} has another shape or type")
    for name, array in found.items():
        _refuse_impossible(name, array)
    return found


def _refuse_impossible(name: str, array: NDArray[np.generic]) -> None:
    numbers = array.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} is not finite")
    low = 0.0
    if name.endswith((".recent_hour", ".day")):
        low = -1.0  # nothing was seen
    elif name.endswith((".waiting", ".last", "features.sums", "sign_means")):
        low = -math.inf
    if (numbers < low).any():
        raise ValueError(f"{name} is negative")
    if array.dtype.kind != "b" and not name.startswith("r.") and (numbers > _MOST_IMAGES).any():
        raise ValueError(f"{name} is too large")
