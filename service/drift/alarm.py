"""When an alarm of a sequential detector began, and when it ends.

An alarm ends after `hold` images in which the evidence, collected anew from zero, has not confirmed
it. `hold` is three times as long as the alarm took, within limits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHORTEST_HOLD = 300  # images
LONGEST_HOLD = 5_000


@dataclass(slots=True)
class Alarm:
    """The alarm of one detector, in images that the detector has seen."""

    images: int = 0
    quiet_image: int = 0  # the last one after which the evidence was below half, in logarithms
    quiet_time: float = 0.0  # when it was answered
    on: bool = False
    since: float = 0.0  # the estimated begin of the change, as a Unix time
    confirmed: int = 0  # the last image at which the evidence sufficed
    hold: int = SHORTEST_HOLD
    classes: tuple[int, ...] = ()  # those with the most evidence when it was last confirmed

    def follow(self, quiet: NDArray[np.bool_], times: NDArray[np.float64]) -> None:
        """Add images, [n] each: whether the evidence is below half after it, and when it came."""
        before, self.images = self.images, self.images + len(quiet)
        if len(last := np.flatnonzero(quiet)):
            self.quiet_image = before + int(last[-1]) + 1
            self.quiet_time = float(times[last[-1]])

    def reach(self, now: float) -> None:
        """Begin or confirm the alarm at the last image that was followed."""
        if not self.on:
            # The second half of the evidence took as long as the first.
            half = self.images - self.quiet_image
            self.since = now - 2 * (now - self.quiet_time) if self.quiet_time else now
            self.hold = min(max(6 * half, SHORTEST_HOLD), LONGEST_HOLD)
        self.on = True
        self.confirmed = self.images

    def expire(self) -> None:
        """End the alarm if nothing has confirmed it for `hold` images."""
        if self.on and self.images - self.confirmed >= self.hold:
            self.on = False

    @property
    def ends_after(self) -> int:
        """Return the number of images without further evidence after which the alarm ends."""
        return max(0, self.hold - (self.images - self.confirmed)) if self.on else 0

    def state(self) -> NDArray[np.float64]:
        """Return the numbers, for `restore`; the classes are not kept."""
        return np.array(
            [
                self.images,
                self.quiet_image,
                self.quiet_time,
                self.on,
                self.since,
                self.confirmed,
                self.hold,
            ],
            np.float64,
        )

    def restore(self, state: NDArray[np.float64]) -> None:
        """Restore the state of an earlier process."""
        images, quiet, quiet_time, on, since, confirmed, hold = state.tolist()
        self.images, self.quiet_image, self.quiet_time = int(images), int(quiet), quiet_time
        self.on, self.since = bool(on), since
        self.confirmed, self.hold = int(confirmed), int(hold)
