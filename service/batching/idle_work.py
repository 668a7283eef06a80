"""Work for idle slots: it never delays a request by more than its own duration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.slots import BatchResult, Image
from tidegate.service.engines.base import Engine


@dataclass(frozen=True, slots=True, eq=False)
class IdleWork:
    """One batch that runs when no slot runs anything, on one of them: warm-up, shadow, explaining.

    Once it is overdue, it runs before requests, so that a version can be loaded under full load.
    """

    images: Sequence[Image]
    engine: Engine
    lane: Lane  # whose duration is predicted for it
    done: Callable[[BatchResult], object]  # called on the event loop
    engine_slot: int | None = None  # of the engine; None: that of the slot that runs it
    overdue_at: float = math.inf  # on the scheduler's clock
    decode_s: float = 0.0  # predicted, on the slot
