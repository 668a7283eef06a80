"""Which images the statistics of inputs are measured on: one every so often, whatever the load."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping


class InputSampler:
    """Decides on the event loop which image is measured; threads add what they measured."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next_sample_at = 0.0
        self._samples: deque[Mapping[str, float]] = deque()

    def wants(self, now: float) -> bool:
        """Return whether to measure the image that arrives now; then no other for `every_s`."""
        if now < self._next_sample_at:
            return False
        self._next_sample_at = now + self._every_s
        return True

    def add(self, statistics: Mapping[str, float]) -> None:
        """Add what was measured. Called on any thread."""
        self._samples.append(statistics)

    def take(self) -> Iterator[Mapping[str, float]]:
        """Yield what was added, each once."""
        while self._samples:
            yield self._samples.popleft()
