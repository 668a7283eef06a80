"""Sets of classes in which the mix of two versions may differ by more than a margin.

The total variation is the largest difference that a set of classes has. So a difference above the
margin in any set that was chosen before the images is evidence. Three sets are chosen by the images
so far: classes that the canary predicts more often, all except those that it predicts less often,
and the classes with the larger share. The last group does not choose, because a run of like images
may go on in the next one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.service.rollout.groups import Bool, Float64

SETS = 3
SIGNALS = 8
_Z = 2.0  # standard errors between two shares, to be in a set
_LEADING = 5


class ClassMix:
    """Counts of both versions, and the sets of classes to bet on. 24 bytes per class."""

    def __init__(self, classes: int, margin: float) -> None:
        self._counts = np.zeros((2, classes), np.int64)  # stable, canary
        self._margin = margin
        self._signs = np.random.default_rng(0).choice(
            np.array([-1, 1], np.int8), (classes, SIGNALS)
        )
        self._last: tuple[Bool, NDArray[np.int64]] | None = None  # group, not yet counted

    def sets(self, design_effect: float) -> tuple[Float64, NDArray[np.bool_], Float64]:
        """Return what to bet on next, if so many images count as one.

        Whether each class is in each set, [classes, SETS]; whether the difference of a set was
        above the margin so far; and the share of all images in each set, [SETS] each.
        """
        images = np.maximum(self._counts.sum(axis=1), 1)
        shares = self._counts / images[:, None]
        pooled = self._counts.sum(axis=0) / images.sum()
        error = np.sqrt(pooled * (1 - pooled) * (1 / images).sum() * design_effect)
        gain = shares[1] - shares[0]
        found = np.stack([gain > _Z * error, gain >= -_Z * error, gain > 0], axis=1)
        chosen = found.astype(np.float64)
        return chosen, gain @ chosen > self._margin, pooled @ chosen

    def signals(self, weights: Float64, classes: NDArray[np.int64]) -> Float64:
        """Return differences in random signs of the classes, [groups, GROUP, SIGNALS].

        The sets change; how dependent the classes of the images are does not.
        """
        return np.asarray(weights[:, :, None] * self._signs[classes])

    def count(self, canary: Bool, classes: NDArray[np.int64]) -> None:
        """Count groups, [groups, GROUP] each; the last one when the next ones come."""
        if self._last is not None:
            self._add(*self._last)
        self._add(canary[:-1], classes[:-1])
        self._last = canary[-1:], classes[-1:]

    def _add(self, canary: Bool, classes: NDArray[np.int64]) -> None:
        for arm, chosen in ((0, ~canary), (1, canary)):
            self._counts[arm] += np.bincount(classes[chosen], minlength=self._counts.shape[1])

    def leading(self) -> list[dict[str, Any]]:
        """Return the classes whose shares differ most, at most five."""
        stable, canary = self._counts / np.maximum(self._counts.sum(axis=1, keepdims=True), 1)
        order = np.argsort(-np.abs(canary - stable), kind="stable")[:_LEADING]
        return [
            {"class_id": int(c), "stable": float(stable[c]), "canary": float(canary[c])}
            for c in order
            if self._counts[:, c].any()
        ]
