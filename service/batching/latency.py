"""ℓ(b), the learned duration of a batch of b images. Pure: durations are arguments."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WINDOW = 64  # batches per bucket: about half a second of a busy slot
_QUANTILE = 0.9
_MARGIN = 1.12  # factor of a prediction over the quantile


class RunningQuantile:
    """An upper quantile of the last `_WINDOW` durations, starting from a seed."""

    def __init__(self, seed_s: float) -> None:
        self._recent: deque[float] = deque([seed_s], maxlen=_WINDOW)
        self._ordered = [seed_s]

    def observe(self, duration_s: float) -> None:
        """Add one duration; drop the oldest if the window is full."""
        if len(self._recent) == _WINDOW:
            del self._ordered[bisect_left(self._ordered, self._recent[0])]
        self._recent.append(duration_s)
        insort(self._ordered, duration_s)

    @property
    def value(self) -> float:
        """Return the quantile, in seconds."""
        return self._ordered[int(_QUANTILE * (len(self._ordered) - 1))]

    @property
    def median(self) -> float:
        """Return the median, in seconds."""
        return self._ordered[len(self._ordered) // 2]


@dataclass(frozen=True, slots=True)
class Learned:
    """ℓ(b) as values, in seconds by bucket."""

    buckets: tuple[int, ...]
    predictions: tuple[float, ...]
    medians: tuple[float, ...]
    unloaded_s: float


class MedianLatency:
    """ℓ(b) by medians, non-decreasing in b: the usual duration, without a margin."""

    def __init__(self) -> None:
        self.unloaded_s = 0.0
        self._medians: list[float] = []
        self._buckets: tuple[int, ...] = ()

    def learn(self, buckets: tuple[int, ...], medians: list[float]) -> None:
        """Set the medians per bucket, which must be non-decreasing."""
        self._buckets, self._medians, self.unloaded_s = buckets, medians, medians[0]

    @property
    def medians(self) -> tuple[float, ...]:
        """Return the medians per bucket."""
        return tuple(self._medians)

    def predict(self, images: int) -> float:
        """Return how long a batch of `images` usually takes, in seconds."""
        return self._medians[min(bisect_left(self._buckets, images), len(self._buckets) - 1)]


class LatencyModel:
    """ℓ(b) in seconds: an upper quantile per bucket plus a margin, non-decreasing in b."""

    def __init__(self, seeds: Mapping[int, float], single_image_s: float | None = None) -> None:
        """Start from the warm-up's durations, bucket → seconds.

        `single_image_s` is the duration of a single image on an idle engine, if it differs.
        """
        self.buckets = tuple(sorted(seeds))
        seed_s = seeds[self.buckets[0]] if single_image_s is None else single_image_s
        self._single_image = RunningQuantile(seed_s)
        self.unloaded_s = self._single_image.value  # shortest duration of one image so far
        self._quantiles = [RunningQuantile(seeds[bucket]) for bucket in self.buckets]
        self._predictions: Sequence[float] = ()
        self.typical = MedianLatency()
        self._recompute()

    def renewed(self) -> LatencyModel:
        """Return a model that starts from what this one has learned."""
        seeds = zip(self.buckets, self._quantiles, strict=True)
        return LatencyModel(
            {bucket: quantile.value for bucket, quantile in seeds}, self._single_image.median
        )

    def learned(self) -> Learned:
        """Return what another process needs to predict the same."""
        return Learned(
            self.buckets, tuple(self._predictions), self.typical.medians, self.unloaded_s
        )

    def adopt(self, learned: Learned) -> None:
        """Predict what another model of the same buckets has learned."""
        self._predictions = learned.predictions
        self.typical.learn(learned.buckets, list(learned.medians))
        self.unloaded_s = learned.unloaded_s

    def bucket(self, images: int) -> int:
        """Return the smallest warmed batch size that fits `images`."""
        return self.buckets[self._index(images)]

    def predict(self, images: int) -> float:
        """Return the upper estimate for a batch of `images`, in seconds."""
        return self._predictions[self._index(images)]

    @property
    def single_image_s(self) -> float:
        """Return how long a single image on an idle engine usually takes, in seconds."""
        return self._single_image.median

    def observe_single_image(self, duration_s: float) -> None:
        """Learn from a single image that ran on an idle engine."""
        self._single_image.observe(duration_s)
        self.unloaded_s = min(self.unloaded_s, duration_s)

    def observe(self, images: int, duration_s: float) -> None:
        """Learn from a batch that ran."""
        index = self._index(images)
        self._quantiles[index].observe(duration_s)
        if index == 0:
            self.unloaded_s = min(self.unloaded_s, duration_s)
        self._recompute()

    def _index(self, images: int) -> int:
        return min(bisect_left(self.buckets, images), len(self.buckets) - 1)

    def _recompute(self) -> None:
        longest = usual = 0.0
        predictions, medians = [], []
        for quantile in self._quantiles:
            longest, usual = max(longest, quantile.value), max(usual, quantile.median)
            predictions.append(longest * _MARGIN)
            medians.append(usual)
        # Replaced, not changed: a thread that loads a version reads them without the lock.
        self._predictions = predictions
        self.typical.learn(self.buckets, medians)
