"""Which of some things belong together, from what belongs together two by two."""

from __future__ import annotations

from collections.abc import Iterable


class Together:
    """Disjoint sets of the numbers below `count`; each is alone at first."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def join(self, members: Iterable[int]) -> None:
        """Put these, and all that each of them is with, into one set."""
        roots = sorted({self._root(member) for member in members})
        for root in roots[1:]:
            self._parent[root] = roots[0]

    def sets(self) -> list[list[int]]:
        """Return all sets, ascending."""
        found: dict[int, list[int]] = {}
        for member in range(len(self._parent)):
            found.setdefault(self._root(member), []).append(member)
        return list(found.values())

    def _root(self, member: int) -> int:
        while (parent := self._parent[member]) != member:
            self._parent[member] = member = self._parent[parent]
        return member
