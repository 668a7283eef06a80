"""Which unit of images goes into which split. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

S = TypeVar("S", bound=str)


@dataclass(frozen=True, slots=True)
class Unit:
    """Images that are kept together."""

    images: Mapping[int, int]  # class id → images
    lot: str  # the place in the drawing of lots

    @property
    def size(self) -> int:
        """Return the number of images."""
        return sum(self.images.values())


def apportion(units: Sequence[Unit], shares: Mapping[S, float]) -> list[S]:
    """Return the split of every unit, so that each class has `shares` in each split.

    Each unit goes where its classes are furthest below their share (Webster's divisors), large
    units first and those of one size by lot.
    """
    totals: Counter[int] = Counter()
    for unit in units:
        totals.update(unit.images)
    filled: dict[S, Counter[int]] = defaultdict(Counter)

    def fullness(unit: Unit, split: S) -> float:
        return max(
            (filled[split][class_id] + count / 2) / (shares[split] * totals[class_id])
            for class_id, count in unit.images.items()
        )

    chosen: dict[int, S] = {}
    for at in sorted(range(len(units)), key=lambda i: (-units[i].size, units[i].lot)):
        split = min(shares, key=lambda name: fullness(units[at], name))
        filled[split].update(units[at].images)
        chosen[at] = split
    return [chosen[at] for at in range(len(units))]


def least_units(shares: Mapping[S, float], least: Mapping[S, int]) -> int:
    """Return how many images a class needs, all of them unlike, for `least` in each split."""
    need = sum(least.values())
    while True:
        parts = Counter(apportion([Unit({0: 1}, f"{i:9}") for i in range(need)], shares))
        if all(parts[split] >= count for split, count in least.items()):
            return need
        need += 1
