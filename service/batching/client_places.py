"""How many of a number of places one client address may take, once several send. Pure."""

from __future__ import annotations

from collections import Counter

_SHARE = 0.5  # of the places, that clients beyond their fair share may fill together


class ClientPlaces:
    """Places that are taken, by client.

    While only one client is active, it may take all of them. Among several, clients with more than
    an equal share of the places taken may fill half of them, so that the others find the rest free.
    """

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()
        self.taken = 0

    def are_free(self, client: str, places: int, active: int) -> bool:
        """Return whether one of `active` clients may take one more of `places`."""
        if self.taken < places * _SHARE or active <= 1:
            return self.taken < places
        own = self._taken[client]
        fair = (self.taken + 1) / active
        return self.taken < places and (own == 0 or own + 1 <= fair)

    def add(self, client: str) -> None:
        """Count a place as taken."""
        self._taken[client] += 1
        self.taken += 1

    def remove(self, client: str) -> None:
        """Count out what was added."""
        self.taken -= 1
        self._taken[client] -= 1
        if not self._taken[client]:
            del self._taken[client]
