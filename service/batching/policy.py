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

from tidegate.service.types import Priority


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
    default_deadline_s: float = math.inf  # of requests that name none


def images_for_slot(ready: int, not_overtaken: int, limits: Limits) -> int:
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
    """What stands before an arrival, and what its own image costs to decode. Seconds.

    Either the slot that runs an image decodes it as well (`slot_decode_s`, `own_slot_decode_s`), or
    decoders of its own do, at the same time as the engine (`decoders_free_in_s`, `own_decode_s`);
    what does not apply is 0.
    """

    slots_free_in_s: Sequence[float]  # per slot, 0 when idle
    waiting: int  # admitted and not dispatched, all of them
    ahead: int  # of those, the ones that go first
    slot_decode_s: float = 0.0  # of one of those waiting, on average
    own_slot_decode_s: float = 0.0
    decoders_free_in_s: float = 0.0  # until a decoder takes up the arrival
    own_decode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an arrival is shed; `retry_after_s` is None where retrying cannot help."""

    reason: str
    retry_after_s: int | None


def eta_s(backlog: Backlog, latency: Latency, max_batch_size: int) -> float:
    """Return when an arrival would be answered, in seconds from now.

    Decoders and the engine work at the same time, so the arrival waits for the slower of the two
    backlogs, not for their sum; then its own batch runs.
    """
    full_batches, rest = divmod(backlog.ahead, max_batch_size)
    slots = sorted(backlog.slots_free_in_s)
    rounds, slot = divmod(full_batches, len(slots))
    full_batch_s = latency.predict(max_batch_size) + max_batch_size * backlog.slot_decode_s
    engine_wait = slots[slot] + rounds * full_batch_s
    decode_wait = backlog.decoders_free_in_s + backlog.own_decode_s
    own_batch_s = rest * backlog.slot_decode_s + backlog.own_slot_decode_s
    return max(engine_wait, decode_wait) + latency.predict(rest + 1) + own_batch_s


def refuse(
    time_left_s: float,
    backlog: Backlog,
    latency: Latency,
    limits: Limits,
    share: float = 1.0,
    *,
    has_place: bool = True,
) -> Refusal | None:
    """Decide on an arrival, before it is decoded: return None to admit it, or why not.

    `share` is the part of its time left that this client's requests may fill (ClientShares), and
    `has_place` whether it may take one more place (ClientPlaces). A long deadline of its own does
    not make a client's share longer: others would wait for it.
    """
    if time_left_s < latency.unloaded_s:
        return Refusal("infeasible-deadline", None)
    eta = eta_s(backlog, latency, limits.max_batch_size)
    if backlog.waiting >= limits.max_queue:
        return Refusal("queue-full", max(1, math.ceil(eta - time_left_s)))
    if not has_place:
        return Refusal("client-share", max(1, math.ceil(eta - time_left_s)))
    slot_is_idle = not backlog.ahead and min(backlog.slots_free_in_s) <= 0
    if slot_is_idle and backlog.decoders_free_in_s <= 0:
        return None  # whatever was learned: what a stall taught is only unlearned by running
    if eta > time_left_s:
        return Refusal("predicted-late", max(1, math.ceil(eta - time_left_s)))
    share_s = share * min(time_left_s, limits.default_deadline_s)
    if share < 1 and eta > share_s:
        return Refusal("client-share", max(1, math.ceil(eta - share_s)))
    return None


@dataclass(slots=True, eq=False)
class Waiting:
    """A request as the policy sees it. Ordered by class, then deadline, then arrival."""

    priority: Priority
    deadline: float
    arrival: int
    slot_decode_s: float = field(default=0.0, kw_only=True)  # predicted; 0 once it is decoded

    @property
    def key(self) -> tuple[int, float, int]:
        """Return what the queue is ordered by."""
        return self.priority, self.deadline, self.arrival


W = TypeVar("W", bound=Waiting)


@dataclass(slots=True)
class BatchPlan(Generic[W]):
    """What to do with the requests taken from the queue's head."""

    dispatch: list[W] = field(default_factory=list)
    shed: list[W] = field(default_factory=list)


def form_batch(
    now: float,
    ready: Iterable[W],
    count: int,
    latency: Latency,
    max_batch_size: int,
    decode_s: float = 0.0,
) -> BatchPlan[W]:
    """Form the next batch from `count` ready requests, given in the queue's order.

    Takes from `ready` only those it decides on: each is dispatched, or shed because even this
    batch would answer it too late. A batch takes `decode_s` on top: what the slot spends decoding
    the first `max_batch_size` of them. One request alone keeps no other waiting, so it is tried
    whenever an idle engine could make it, and what was learned in a stall can be unlearned.
    """
    decided: BatchPlan[W] = BatchPlan()
    for request in ready:
        together = len(decided.dispatch) + count
        count -= 1
        alone = together == 1
        batch_s = latency.predict(min(together, max_batch_size)) + decode_s
        if now + (latency.unloaded_s if alone else batch_s) > request.deadline:
            decided.shed.append(request)
            decode_s = max(0.0, decode_s - request.slot_decode_s)
            continue
        decided.dispatch.append(request)
        if len(decided.dispatch) == max_batch_size:
            break
    return decided
