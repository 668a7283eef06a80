"""Limit the queueing time of one client while several are active. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

_ACTIVE_S = 10.0  # a client counts as active this long after its last request
_CLIENTS_REMEMBERED = 1_000
_UNSEEN = (0.0, 0.0)
_ROUNDING_S = 1e-9
_SHARE = 0.5  # of the time to its deadline; a client above its fair share may wait this long


def equal_weight(_: str) -> float:
    """The weight of every client without another one."""
    return 1.0


class ClientShares:
    """The predicted outstanding work, in seconds, by client: an address, or the name of a key.

    A client that is the only active one may use the whole queue: behind a proxy all clients have
    one address. If several are active, a client with more than its fair share of the outstanding
    work, by its weight, may fill the queue only up to half of the time to its deadline (at most
    half of the default deadline), which leaves room for the others. A client without outstanding
    work is exempt, because a single large image can exceed a fair share.
    """

    def __init__(self, weight_of: Callable[[str], float] = equal_weight) -> None:
        self._weight_of = weight_of
        self._outstanding: dict[str, float] = {}
        self._total = 0.0
        # client → last request and its weight then, oldest first
        self._seen: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._weight = 0.0  # of all in `_seen`

    def share(self, client: str, work_s: float, now: float) -> float:
        """Return the part of its time to the deadline that an arrival may wait: 1 or `_SHARE`."""
        self._note(client, now)
        if client not in self._outstanding or len(self._seen) == 1:
            return 1.0
        fair = (self._total + work_s) * self.part(client)
        return 1.0 if self._outstanding[client] + work_s <= fair + _ROUNDING_S else _SHARE

    def part(self, client: str) -> float:
        """Return a client's weight as a part of all that sent a request in the last `_ACTIVE_S`.

        It is 1 for the only active client.
        """
        return 1.0 if len(self._seen) <= 1 else self._seen[client][1] / self._weight

    @property
    def one_client(self) -> bool:
        """Return whether at most one client is active."""
        return len(self._seen) <= 1

    def add(self, client: str, work_s: float) -> None:
        """Count admitted work as outstanding."""
        self._outstanding[client] = self._outstanding.get(client, 0.0) + work_s
        self._total += work_s

    def remove(self, client: str, work_s: float) -> None:
        """Stop counting work that was added."""
        left = self._outstanding.get(client, 0.0) - work_s
        self._total = max(0.0, self._total - work_s)
        if left > 1e-9:
            self._outstanding[client] = left
        else:
            self._outstanding.pop(client, None)

    def _note(self, client: str, now: float) -> None:
        weight = self._weight_of(client)
        self._weight += weight - self._seen.get(client, _UNSEEN)[1]
        self._seen[client] = now, weight
        self._seen.move_to_end(client)
        while len(self._seen) > _CLIENTS_REMEMBERED or self._oldest_seen() < now - _ACTIVE_S:
            _, (_, gone) = self._seen.popitem(last=False)
            self._weight -= gone

    def _oldest_seen(self) -> float:
        return next(iter(self._seen.values()))[0]
