"""How images were answered: one by one, and as arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tidegate.service.rollout.groups import Bool, Float64

Arm = Literal["stable", "canary"]
Kind = Literal["answered", "late", "error"]
KINDS: tuple[Kind, ...] = ("answered", "late", "error")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one image was answered."""

    kind: Kind  # late: 504; error: any other 5xx except 503
    received: float  # when it had arrived, in seconds of any clock
    latency_s: float = math.nan  # in queue and engine
    class_id: int = 0
    p_value: float = math.nan
    rejected: bool = False
    duplicate: bool = False  # a near-duplicate of a recent image, of whichever version


@dataclass(frozen=True, slots=True)
class Images:
    """Outcomes as arrays, [n] each, in any order."""

    canary: Bool
    kinds: NDArray[np.int64]  # place in KINDS
    received: Float64
    latencies_s: Float64
    classes: NDArray[np.int64]
    p_values: Float64
    rejected: Bool
    duplicates: Bool


def as_arrays(outcomes: Sequence[tuple[Arm, Outcome]]) -> Images:
    """Return outcomes as arrays."""
    return Images(
        np.array([arm == "canary" for arm, _ in outcomes]),
        np.array([KINDS.index(one.kind) for _, one in outcomes]),
        np.array([one.received for _, one in outcomes]),
        np.array([one.latency_s for _, one in outcomes]),
        np.array([one.class_id for _, one in outcomes]),
        np.array([one.p_value for _, one in outcomes]),
        np.array([one.rejected for _, one in outcomes]),
        np.array([one.duplicate for _, one in outcomes]),
    )
