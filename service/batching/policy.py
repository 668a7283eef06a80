"""Decide what to admit, what to shed and what to run next. Pure: no clock, no lock, no queue.

Under overload, the capacity goes to requests that can still be answered in time: an arrival that
would be late is rejected before any work is done for it, a request that has become late is dropped,
and batches stay as full as possible. A batch is deliberately not limited to the size that its
earliest deadline allows: that would reduce throughput exactly when it is short, until the service
collapses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from tidegate.service.types import Priority

_ROUNDING_S = 1e-9
_LONGEST_S = 1e6  # of a time limit


class Latency(Protocol):
    """ℓ(b), in seconds."""

    @property
    def unloaded_s(self) -> float: ...

    def predict(self, images: int) -> float: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the batch size and on the queue."""

    max_batch_size: int
    max_queue: int  # requests admitted but not dispatched
    side_by_side: int = 1  # slots with their own cores, which share the ready images
    default_deadline_s: float = math.inf  # of requests that do not set one


def images_for_slot(together: int, limits: Limits) -> int:
    """Return how many of the images that may run together an idle slot takes.

    If slots take turns on one device (`side_by_side` is 1), that is as many as fit. If each slot
    has its own core, it is an equal part of them, so that the next idle slot has work too.
    """
    return min(limits.max_batch_size, -(-together // limits.side_by_side))


class Backlog(NamedTuple):
    """The work ahead of an arrival, and the decode time of its own image. Times in seconds.

    An image is decoded either by the slot that runs it (`slot_decode_s`, `own_slot_decode_s`), or
    by a decoder while the engine computes (`decoders_free_in_s`, `own_decode_s`). Fields that do
    not apply are 0.
    """

    slots_free_in_s: Sequence[float]  # per slot; 0 if idle
    waiting: int  # all requests admitted but not dispatched
    ahead: int  # those of them that run before the arrival
    slot_decode_s: float = 0.0  # average of the requests that wait
    own_slot_decode_s: float = 0.0  # of the arrival
    decoders_free_in_s: float = 0.0  # until a decoder starts the arrival
    own_decode_s: float = 0.0  # of the arrival
    other_lanes_s: float = 0.0  # slot time per slot, of other models' requests that run before it


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an arrival is rejected; `retry_after_s` is None if retrying cannot help."""

    reason: str
    retry_after_s: int | None


def eta_s(backlog: Backlog, latency: Latency, max_batch_size: int) -> float:
    """Return when an arrival would be answered, in seconds from now.

    Decoders and the engine work concurrently, so the arrival waits for the slower of the two
    backlogs, not for their sum. Then its own batch runs.
    """
    full_batches, rest = divmod(backlog.ahead, max_batch_size)
    slots = sorted(backlog.slots_free_in_s)
    rounds, slot = divmod(full_batches, len(slots))
    full_batch_s = latency.predict(max_batch_size) + max_batch_size * backlog.slot_decode_s
    engine_wait = slots[slot] + rounds * full_batch_s + backlog.other_lanes_s
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
    share_reason: str = "client-share",
    has_place: bool = True,
) -> Refusal | None:
    """Return why an arrival is rejected, or None to admit it. Called before it is decoded.

    `share` is the part of the time to the deadline that this client or this model may fill
    (ClientShares, ModelShares), and `share_reason` says which of the two limits it; `has_place` is
    whether the client may use one more place (ClientPlaces). The share is computed from at most the
    default deadline, because other clients would wait for a client with a longer one.
    """
    if time_left_s < latency.unloaded_s:
        return Refusal("infeasible-deadline", None)
    eta = eta_s(backlog, latency, limits.max_batch_size)
    if backlog.waiting >= limits.max_queue:
        return Refusal("queue-full", max(1, math.ceil(eta - time_left_s)))
    if not has_place:
        return Refusal("client-share", max(1, math.ceil(eta - time_left_s)))
    nothing_ahead = not backlog.ahead and not backlog.other_lanes_s
    slot_is_idle = nothing_ahead and min(backlog.slots_free_in_s) <= 0
    if slot_is_idle and backlog.decoders_free_in_s <= 0:
        return None  # despite the prediction: if it is wrong, only running a request corrects it
    if eta > time_left_s:
        return Refusal("predicted-late", max(1, math.ceil(eta - time_left_s)))
    share_s = share * min(time_left_s, limits.default_deadline_s)
    if share < 1 and eta > share_s:
        return Refusal(share_reason, max(1, math.ceil(eta - share_s)))
    return None


class Pace(NamedTuple):
    """How fast waiting images are answered, if all that work on them are busy. In seconds."""

    start_s: float  # when the first one starts, on the clock
    each_s: float  # from one start to the next
    own_s: float  # from a start to its answer


def all_in_time(deadlines: Iterable[float], before: int, pace: Pace) -> bool:
    """Return whether images that run in this order are in time, if `before` others run first."""
    done = pace.start_s + before * pace.each_s + pace.own_s
    for deadline in deadlines:
        if done > deadline + _ROUNDING_S:
            return False
        done += pace.each_s
    return True


def delays_beyond(deadlines: Sequence[float], before: int, pace: Pace) -> bool:
    """Return whether one more image makes one of these late, which run behind it in this order.

    They are sorted, and `before` other images run first. Those that would be late anyway do not
    count.
    """
    done = pace.start_s + before * pace.each_s + pace.own_s
    if done + len(deadlines) * pace.each_s <= deadlines[0]:
        return False  # usually: all of them are done before the first deadline
    for deadline in deadlines:
        late_by = done + pace.each_s - deadline - _ROUNDING_S
        if 0 < late_by <= pace.each_s:
            return True
        done += pace.each_s
    return False


def haste(time_limit_s: float) -> int:
    """Return how short a time limit is, as a power of two: limits that differ less are alike."""
    return math.frexp(min(time_limit_s, _LONGEST_S))[1]


@dataclass(slots=True, eq=False)
class Waiting:
    """A request as the policy sees it."""

    priority: Priority
    deadline: float
    arrival: int
    haste: int = field(default=0, kw_only=True)  # of its time limit at its arrival
    turn: float = field(default=0.0, kw_only=True)  # of its client; see `Turns`
    work_s: float = field(default=0.0, kw_only=True)  # decoding and engine, predicted at admission
    slot_decode_s: float = field(default=0.0, kw_only=True)  # predicted; 0 if decoders decode it

    @property
    def key(self) -> tuple[int, float, int]:
        """Return the sort key by deadline: if any order keeps all in time, this one does."""
        return self.priority, self.deadline, self.arrival

    @property
    def level(self) -> tuple[Priority, int]:
        """Return the class and the haste: within one, clients take turns."""
        return self.priority, self.haste

    @property
    def preference(self) -> tuple[int, int, float, float, int]:
        """Return the sort key while all are in time: short time limits first, clients in turns."""
        return self.priority, self.haste, self.turn, self.deadline, self.arrival


W = TypeVar("W", bound=Waiting)


@dataclass(slots=True)
class BatchPlan(Generic[W]):
    """What to do with the requests at the head of the queue."""

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

    Consumes only the requests of `ready` that it decides on: each is dispatched, or shed because
    even this batch would answer it too late. `decode_s` is the time that the slot spends decoding
    the first `max_batch_size` requests; it adds to the batch's duration. A single request delays no
    other, so it runs if an idle engine could meet its deadline. Its duration corrects a prediction
    that a stall made too high.
    """
    decided: BatchPlan[W] = BatchPlan()
    for request in ready:
        together = len(decided.dispatch) + count
        count -= 1
        single = together == 1
        batch_s = latency.predict(min(together, max_batch_size)) + decode_s
        if now + (latency.unloaded_s if single else batch_s) > request.deadline:
            decided.shed.append(request)
            decode_s = max(0.0, decode_s - request.slot_decode_s)
            continue
        decided.dispatch.append(request)
        if len(decided.dispatch) == max_batch_size:
            break
    return decided
