"""What a shadow answered, compared with the stable version's answer to the same image."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tidegate.service.rollout.intervals import clopper_pearson
from tidegate.service.types import Decision

DIFFERENCE_EDGES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of the histogram, between 0 and 1
_PAIRS = 1000  # of classes that are counted at once
_SHOWN_PAIRS = 20
_KEPT_IMAGES = 20
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Both answers to one image."""

    image_id: str
    stable_class: int
    shadow_class: int
    stable_decision: Decision
    shadow_decision: Decision
    stable_probability: float  # of the stable version's class
    shadow_probability: float  # of the same class
    duplicate: bool = False  # a near-duplicate of a recent image
    stable_p_value: float = math.nan
    shadow_p_value: float = math.nan

    @property
    def is_same(self) -> bool:
        """Return whether class and decision are the same."""
        return (self.stable_class, self.stable_decision) == (
            self.shadow_class,
            self.shadow_decision,
        )


class Frequent:
    """Counts the most frequent keys in bounded memory (Misra and Gries 1982).

    A count is too low by at most `missed`, which is at most n / (capacity + 1).
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.counts: dict[tuple[int, int], int] = {}
        self.missed = 0

    def add(self, key: tuple[int, int]) -> None:
        """Count a key once."""
        if key in self.counts or len(self.counts) < self._capacity:
            self.counts[key] = self.counts.get(key, 0) + 1
            return
        self.missed += 1
        self.counts = {known: count - 1 for known, count in self.counts.items() if count > 1}


class ShadowReport:
    """Counts comparisons. Memory does not grow with them."""

    def __init__(self) -> None:
        self.images = self.duplicates = 0
        self._same_class = self._same_decision = 0
        self._histogram = [0] * (len(DIFFERENCE_EDGES) + 1)
        self._classes = Frequent(_PAIRS)
        self._decisions: Counter[tuple[Decision, Decision]] = Counter()
        self._most_different: list[tuple[float, int, str]] = []  # heap, the least different first

    def observe(self, pair: AnswerPair) -> None:
        """Add one image; near-duplicates are not counted, as intervals need independent images."""
        if pair.duplicate:
            self.duplicates += 1
            return
        self.images += 1
        classes = (pair.stable_class, pair.shadow_class)
        decisions = (pair.stable_decision, pair.shadow_decision)
        difference = abs(pair.shadow_probability - pair.stable_probability)
        self._histogram[bisect_right(DIFFERENCE_EDGES, difference)] += 1
        if classes[0] == classes[1]:
            self._same_class += 1
        else:
            self._classes.add(classes)
        if decisions[0] == decisions[1]:
            self._same_decision += 1
        else:
            self._decisions[decisions] += 1
        entry = (difference, -self.images, pair.image_id)  # of equal ones, the first stay
        if len(self._most_different) < _KEPT_IMAGES:
            heapq.heappush(self._most_different, entry)
        else:
            heapq.heappushpop(self._most_different, entry)

    def report(self) -> dict[str, Any]:
        """Return the counts, with exact intervals."""
        pairs = sorted(self._classes.counts.items(), key=lambda item: (-item[1], item[0]))
        return {
            "images": self.images,
            "duplicates": self.duplicates,
            "same_class": self._share(self._same_class),
            "same_decision": self._share(self._same_decision),
            "probability_differences": {
                "edges": [0.0, *DIFFERENCE_EDGES, 1.0],
                "counts": list(self._histogram),
            },
            "disagreements": [
                {"stable": stable, "shadow": shadow, "images": count}
                for (stable, shadow), count in pairs[:_SHOWN_PAIRS]
            ],
            "disagreements_missed": self._classes.missed,  # at most, of each pair
            "decisions": [
                {"stable": stable, "shadow": shadow, "images": count}
                for (stable, shadow), count in self._decisions.most_common()
            ],
            "most_different": [
                {"image_id": image_id, "difference": difference}
                for difference, _, image_id in sorted(self._most_different, reverse=True)
            ],
        }

    def _share(self, hits: int) -> dict[str, Any]:
        low, high = clopper_pearson(hits, self.images, _LEVEL)
        share = hits / self.images if self.images else None
        return {"images": hits, "share": share, "low": low, "high": high, "level": _LEVEL}
