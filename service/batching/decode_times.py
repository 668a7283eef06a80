"""Predict decode times from image headers and from measured decodes. Pure: time is an argument.

The header gives the format and an estimate for the reference core. The ratio of measured to
estimated time is learned per format and size. It is a median, so a minority of unusual images
cannot change it. It is bounded, and old ratios expire, so that a burst has no lasting effect.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from typing import NamedTuple

_WINDOW = 64  # ratios remembered per format and size
_FADE_S = 30.0
_MOST_SLOWER = 8.0  # ratios are clipped to [1/8, 8]
_MARGIN = 1.25  # factor of predict_s over typical_s


class DecodeCost(NamedTuple):
    """The estimated work of decoding an image, from its header."""

    kind: str = ""
    seconds: float = 0.0  # estimated, to decode and preprocess on the reference core
    large: bool = False  # decoded separately, so that other images do not wait for it
    decoded: bool = False  # the client sent pixels


class FadingMedian:
    """The median of the last `_WINDOW` values that are younger than `_FADE_S`."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque()
        self._ordered: list[float] = []

    def observe(self, value: float, now: float) -> None:
        """Add one value; drop the oldest if the window is full."""
        if len(self._recent) == _WINDOW:
            self._forget_oldest()
        self._recent.append((now, value))
        insort(self._ordered, value)

    def value(self, now: float) -> float | None:
        """Return the median, or None if there is no recent value."""
        while self._recent and self._recent[0][0] < now - _FADE_S:
            self._forget_oldest()
        return self._ordered[len(self._ordered) // 2] if self._ordered else None

    def _forget_oldest(self) -> None:
        _, oldest = self._recent.popleft()
        del self._ordered[bisect_left(self._ordered, oldest)]


class DecodeTimes:
    """Predicts decode times in seconds, by format and size."""

    def __init__(self) -> None:
        self._ratios: dict[tuple[str, int], FadingMedian] = {}
        self._all = FadingMedian()

    def observe(self, cost: DecodeCost, seconds: float, now: float) -> None:
        """Learn from an image that was decoded successfully."""
        if cost.seconds <= 0:
            return
        ratio = min(max(seconds / cost.seconds, 1 / _MOST_SLOWER), _MOST_SLOWER)
        self._ratios.setdefault(_size_class(cost), FadingMedian()).observe(ratio, now)
        self._all.observe(ratio, now)

    def typical_s(self, cost: DecodeCost, now: float) -> float:
        """Return how long decoding an image of this cost usually takes."""
        if cost.seconds <= 0:
            return 0.0
        alike = self._ratios.get(_size_class(cost))
        ratio = alike.value(now) if alike is not None else None
        if ratio is None:
            ratio = self._all.value(now)
        return cost.seconds * (1.0 if ratio is None else ratio)

    def predict_s(self, cost: DecodeCost, now: float) -> float:
        """Return the usual decode time plus a margin of 25 %, for admission."""
        return self.typical_s(cost, now) * _MARGIN


def _size_class(cost: DecodeCost) -> tuple[str, int]:
    """Return the format and the estimate's power of two, which bounds the number of classes."""
    return cost.kind, math.frexp(cost.seconds)[1]
