"""Limit how many places one client address may use while several are active. Pure."""

from __future__ import annotations

from collections import Counter

_SHARE = 0.5  # of the places; clients above their fair share may use this part together


class ClientPlaces:
    """The places in use, by client.

    A client that is the only active one may use all places. If several are active, those with more
    than an equal share of the places in use may together use only half of all places, so that the
    other half stays available to the others.
    """

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()
        self.taken = 0

    def are_free(self, client: str, places: int, active: int) -> bool:
        """Return whether `client`, one of `active`, may use one more of `places`."""
        if self.taken < places * _SHARE or active <= 1:
            return self.taken < places
        own = self._taken[client]
        fair = (self.taken + 1) / active
        return self.taken < places and (own == 0 or own + 1 <= fair)

    def add(self, client: str) -> None:
        """Count one more place of a client as in use."""
        self._taken[client] += 1
        self.taken += 1

    def remove(self, client: str) -> None:
        """Free one place that was added."""
        self.taken -= 1
        self._taken[client] -= 1
        if not self._taken[client]:
            del self._taken[client]
