"""Who may still fill the queue: a share per client address, once several send. Pure."""

from __future__ import annotations

from collections import OrderedDict

_ACTIVE_S = 10.0  # a client counts as active this long after its last request
_CLIENTS_REMEMBERED = 1_000
_SHARE = 0.5  # of the time to its deadline, that a client beyond its fair share may fill


class ClientShares:
    """Predicted work outstanding, in seconds, by client.

    While only one client is active, it may use everything: behind a proxy all clients look like
    one. Among several, a client with more than its fair share of the outstanding work may fill the
    queue to half of its deadline, or of the default one if that is sooner, so that what the others
    send still fits in. A client of which nothing is outstanding is not held to that: one large
    image alone is more than such a share.
    """

    def __init__(self) -> None:
        self._outstanding: dict[str, float] = {}
        self._total = 0.0
        self._seen: OrderedDict[str, float] = OrderedDict()  # client → last request, oldest first

    def share(self, client: str, work_s: float, now: float) -> float:
        """Return the part of its time that an arrival may spend waiting: 1, or `_SHARE`."""
        self._note(client, now)
        if client not in self._outstanding or len(self._seen) == 1:
            return 1.0
        fair = (self._total + work_s) / len(self._seen)
        return 1.0 if self._outstanding[client] + work_s <= fair else _SHARE

    @property
    def active(self) -> int:
        """Return how many clients have sent lately."""
        return len(self._seen)

    def add(self, client: str, work_s: float) -> None:
        """Count work that was admitted."""
        self._outstanding[client] = self._outstanding.get(client, 0.0) + work_s
        self._total += work_s

    def remove(self, client: str, work_s: float) -> None:
        """Count out what was added."""
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
