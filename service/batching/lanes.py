"""Lanes: the loaded versions of models, as the scheduler sees them. Every batch is of one lane."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.policy import Limits
from tidegate.service.batching.statistics import Statistics
from tidegate.service.engines.base import Engine

# A lane may be this far ahead of its share of the slots, so that deadlines decide in between.
_MOST_AHEAD_S = 0.1
_ACTIVE_S = 10.0  # a model counts as active this long after its last request
_SHARE = 0.5  # of the time to its deadline; a model above its share may wait this long


@dataclass(slots=True, eq=False)
class Lane:
    """An engine, what is known of its durations, and its part of the slots."""

    engine: Engine
    latency: LatencyModel
    limits: Limits  # low device memory reduces max_batch_size
    all_cores_engine: Engine | None = None  # for a single image while nothing else runs
    model: str = ""  # lanes of one model share its weight
    weight: float = 1.0
    unmeasured: tuple[str, ...] = ()  # what warm-up had no time to measure
    statistics: Statistics = field(default_factory=Statistics, init=False)
    used_s: float = field(default=0.0, init=False)  # predicted slot time, divided by the weight
    tickets: int = field(default=0, init=False)  # admitted and not released
    batches: int = field(default=0, init=False)  # that run
    requests: int = field(default=0, init=False)  # not admitted yet; changed on the event loop

    @property
    def is_idle(self) -> bool:
        """Return whether nothing waits or runs here, and no request is being received."""
        return not self.tickets and not self.batches and not self.requests

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Keep the lane open while a request for it is received. On the event loop."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    def close(self) -> None:
        """Release the engines. The scheduler must have forgotten the lane."""
        with ExitStack() as closing:  # both, also if one fails
            for engine in filter(None, (self.engine, self.all_cores_engine)):
                closing.callback(engine.close)

    def limit_batches(self, largest: int) -> None:
        """Lower the largest batch size."""
        self.limits = replace(self.limits, max_batch_size=largest)

    def use(self, seconds: float) -> None:
        """Count predicted slot time."""
        self.used_s += seconds / self.weight


def fairest(lanes: Iterable[tuple[Lane, tuple[int, float, int]]]) -> Lane:
    """Return the lane whose batch runs next, of those with a ready request and its sort key.

    The highest priority class comes first, then the earliest deadline, unless that lane has used
    `_MOST_AHEAD_S` more than its share of the slots.
    """
    candidates = list(lanes)
    best = min(key[0] for _, key in candidates)
    candidates = [(lane, key) for lane, key in candidates if key[0] == best]
    first = min(candidates, key=lambda one: one[1])[0]
    behind = min(candidates, key=lambda one: one[0].used_s)[0]
    return behind if first.used_s - behind.used_s > _MOST_AHEAD_S else first


def catch_up(lane: Lane, active: Iterable[Lane]) -> None:
    """Forget the share that a lane did not use while it had no requests."""
    used = [other.used_s for other in active if other is not lane]
    if used:
        lane.used_s = max(lane.used_s, min(used))


class ModelShares:
    """Limits the queueing time of one model while several are active, by their weights. Pure.

    As with client addresses (`client_shares`), a model with more than its share of the outstanding
    work may fill the queue only up to half of the time to its deadline.
    """

    def __init__(self) -> None:
        self._outstanding: dict[str, float] = {}
        self._seen: dict[str, tuple[float, float]] = {}  # model → last request, weight

    def share(self, lane: Lane, work_s: float, now: float) -> float:
        """Return the part of its time to the deadline that an arrival may wait: 1 or `_SHARE`."""
        self._seen[lane.model] = now, lane.weight
        if len(self._seen) == 1:
            return 1.0
        self._seen = {m: seen for m, seen in self._seen.items() if seen[0] >= now - _ACTIVE_S}
        own = self._outstanding.get(lane.model, 0.0)
        if not own or len(self._seen) == 1:
            return 1.0
        part = lane.weight / sum(weight for _, weight in self._seen.values())
        total = sum(self._outstanding.values()) + work_s
        return 1.0 if own + work_s <= part * total else _SHARE

    def add(self, model: str, work_s: float) -> None:
        """Count admitted work as outstanding."""
        self._outstanding[model] = self._outstanding.get(model, 0.0) + work_s

    def remove(self, model: str, work_s: float) -> None:
        """Stop counting work that was added."""
        left = self._outstanding.get(model, 0.0) - work_s
        if left > 1e-9:
            self._outstanding[model] = left
        else:
            self._outstanding.pop(model, None)
