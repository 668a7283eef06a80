"""Limit the queueing time of one client address while several are active. Pure."""

from __future__ import annotations

from collections import OrderedDict

_ACTIVE_S = 10.0  # a client counts as active this long after its last request
_CLIENTS_REMEMBERED = 1_000
_SHARE = 0.5  # of the time to its deadline; a client above its fair share may wait this long


class ClientShares:
    """The predicted outstanding work, in seconds, by client.

    A client that is the only active one may use the whole queue: behind a proxy all clients have
    one address. If several are active, a client with more than its fair share of the outstanding
    work may fill the queue only up to half of the time to its deadline (at most half of the default
    deadline), which leaves room for the others. A client without outstanding work is exempt,
    because a single large image can exceed a fair share.
    """

    def __init__(self) -> None:
        self._outstanding: dict[str, float] = {}
        self._total = 0.0
        self._seen: OrderedDict[str, float] = OrderedDict()  # client → last request, oldest first

    def share(self, client: str, work_s: float, now: float) -> float:
        """Return the part of its time to the deadline that an arrival may wait: 1 or `_SHARE`."""
        self._note(client, now)
        if client not in self._outstanding or len(self._seen) == 1:
            return 1.0
        fair = (self._total + work_s) / len(self._seen)
        return 1.0 if self._outstanding[client] + work_s <= fair else _SHARE

    @property
    def active(self) -> int:
        """Return how many clients sent a request in the last `_ACTIVE_S`."""
        return len(self._seen)

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
        self._seen[client] = now
        self._seen.move_to_end(client)
        while len(self._seen) > _CLIENTS_REMEMBERED or self._oldest_seen() < now - _ACTIVE_S:
            self._seen.popitem(last=False)

    def _oldest_seen(self) -> float:
        return next(iter(self._seen.values()))
