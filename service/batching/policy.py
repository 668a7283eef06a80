"""Whom to admit, whom to shed, whom to run next. Pure: no clock, no lock, no queue.

In overload the capacity goes to requests that can still be answered in time: an arrival that would
be too late is refused before it costs anything, one that has become too late is dropped, and
batches stay as full as they can be. Capping a batch to its oldest deadline is left out on purpose:
it trades throughput for one request exactly when throughput is short, and collapses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from service.types import Priority


class Latency(Protocol):
    """ℓ(b), in seconds."""

    @property
    def unloaded_s(self) -> float: ...

    def predict(self, images: int) -> float: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what may wait and run together."""

    max_batch_size: int
    max_queue: int  # requests admitted and not yet dispatched
    side_by_side: int = 1  # slots that do not slow each other down: they share what is ready


def share(ready: int, not_overtaken: int, limits: Limits) -> int:
    """Return how many of the ready images an idle slot takes.

    As many as fit, where slots take turns on one device. Where each has a core of its own, its part
    of them: three in one batch while the next slot comes free would all wait for the third. There
    company takes nearly as long as a run of its own, so whoever is in a hurry does without that of
    those it overtook: only the first `not_overtaken` go along.
    """
    if limits.side_by_side == 1:
        return min(limits.max_batch_size, ready)
    return min(limits.max_batch_size, -(-ready // limits.side_by_side), not_overtaken)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What stands before an arrival."""

    slots_free_in_s: Sequence[float]  # per slot, 0 when idle
    waiting: int  # admitted and not dispatched, all of them
    ahead: int  # of those, the ones that go first
    decoding: int  # of those waiting, not yet preprocessed
    decode_s: float  # what one image costs to preprocess
    decode_workers: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an arrival is shed; `retry_after_s` is None where retrying cannot help."""

    reason: str
    retry_after_s: int | None


def eta_s(backlog: Backlog, latency: Latency, max_batch_size: int) -> float:
    """Return when an arrival would be answered, in seconds from now.

    Preprocessing and the engine work at the same time, so the arrival waits for the slower of the
    two backlogs, not for their sum; then its own batch runs.
    """
    full_batches, rest = divmod(backlog.ahead, max_batch_size)
    slots = sorted(backlog.slots_free_in_s)
    rounds, slot = divmod(full_batches, len(slots))
    engine_wait = slots[slot] + rounds * latency.predict(max_batch_size)
    decode_wait = math.ceil((backlog.decoding + 1) / backlog.decode_workers) * backlog.decode_s
    return max(engine_wait, decode_wait) + latency.predict(rest + 1)


def refuse(
    time_left_s: float, backlog: Backlog, latency: Latency, limits: Limits
) -> Refusal | None:
    """Decide on an arrival, before it is decoded: None to admit it, or why not."""
    if time_left_s < latency.unloaded_s:
        return Refusal("infeasible-deadline", None)
    if not backlog.waiting and min(backlog.slots_free_in_s) <= 0:
        return None  # whatever ℓ says: what was learned in a stall is only unlearned by running
    eta = eta_s(backlog, latency, limits.max_batch_size)
    if backlog.waiting >= limits.max_queue:
        return Refusal("queue-full", max(1, math.ceil(eta - time_left_s)))
    if eta > time_left_s:
        return Refusal("predicted-late", max(1, math.ceil(eta - time_left_s)))
    return None


@dataclass(slots=True, eq=False)
class Waiting:
    """A request as the policy sees it. Ordered by class, then deadline, then arrival."""

    priority: Priority
    deadline: float
    arrival: int

    @property
    def key(self) -> tuple[int, float, int]:
        """Return what the queue is ordered by."""
        return self.priority, self.deadline, self.arrival


W = TypeVar("W", bound=Waiting)


@dataclass(slots=True)
class Plan(Generic[W]):
    """What to do with the requests taken from the queue's head."""

    dispatch: list[W] = field(default_factory=list)
    shed: list[W] = field(default_factory=list)


def plan(
    now: float, ready: Iterable[W], count: int, latency: Latency, max_batch_size: int
) -> Plan[W]:
    """Form the next batch from `count` ready requests, given in the queue's order.

    Takes from `ready` only those it decides on: each is dispatched, or shed because even this
    batch would answer it too late. One alone keeps nobody waiting, so it is tried whenever an idle
    engine could make it, and what was learned in a stall can be unlearned.
    """
    decided: Plan[W] = Plan()
    for request in ready:
        together = len(decided.dispatch) + count
        count -= 1
        alone = together == 1
        took = latency.unloaded_s if alone else latency.predict(min(together, max_batch_size))
        if now + took > request.deadline:
            decided.shed.append(request)
            continue
        decided.dispatch.append(request)
        if len(decided.dispatch) == max_batch_size:
            break
    return decided
