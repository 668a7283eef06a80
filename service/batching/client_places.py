"""Limit how many places one client may use while several are active. Pure."""

from __future__ import annotations

from collections import Counter

_ROUNDING = 1e-6
_SHARE = 0.5  # of the places; clients above their fair share may use this part together


class ClientPlaces:
    """The places in use, by client.

    A client that is the only active one may use all places. If several are active, those with more
    than their share of the places in use may together use only half of all places, so that the
    other half stays available to the others.
    """

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()
        self.taken = 0

    def are_free(self, client: str, places: int, part: float) -> bool:
        """Return whether `client` may use one more of `places`.

        `part` is its share, as a part of all active clients': 1 for the only active one.
        """
        if self.taken < places * _SHARE or part >= 1:
            return self.taken < places
        own = self._taken[client]
        fair = (self.taken + 1) * part
        return self.taken < places and (own == 0 or own + 1 <= fair + _ROUNDING)

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
