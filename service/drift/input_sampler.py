"""Select the images for input statistics: at a fixed interval, independent of the load."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping


class InputSampler:
    """Selects images on the event loop; other threads add the measured statistics."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next_sample_at = 0.0
        self._samples: deque[Mapping[str, float]] = deque()

    def wants(self, now: float) -> bool:
        """Return whether to measure the current image; if so, none of the next `every_s`."""
        if now < self._next_sample_at:
            return False
        self._next_sample_at = now + self._every_s
        return True

    def add(self, statistics: Mapping[str, float]) -> None:
        """Add one image's statistics. May be called on any thread."""
        self._samples.append(statistics)

    def take(self) -> Iterator[Mapping[str, float]]:
        """Yield the added statistics, each once."""
        while self._samples:
            yield self._samples.popleft()
