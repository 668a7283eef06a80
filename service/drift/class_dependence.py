"""How dependent the predicted classes of successive images are.

Each class has some random signs. The correlation of an image's signs with the next image's is that
of their classes, so that 10,000 classes need no more memory than a few signals.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.dependence import Dependence
from tidegate.service.drift.state_arrays import State, named, part_of

_SIGNALS = 8  # random signs per class
_LEAST_VARIANCE = 0.004  # of a sign: below, nearly all images have the same one
_SIGN_IMAGES = 4_096  # over which a sign's mean fades


class ClassDependence:
    """Estimates the design effect of a sequence of predicted classes."""

    def __init__(self, classes: int) -> None:
        self._signs = np.random.default_rng(0).choice([-1.0, 1.0], (classes, _SIGNALS))
        self._means = np.zeros(_SIGNALS)
        self.images = 0  # over which the means are taken
        self._dependence = Dependence(_SIGNALS)

    def add(self, classes: NDArray[np.int64]) -> None:
        """Add the classes of answered images, in the order of their answers."""
        self._dependence.add(self._signals(classes))

    def design_effect(self) -> float:
        """Return an upper limit of the design effect."""
        variance = float(self._variances.min())
        return self._dependence.design_effect(
            independent=min(_SIGNALS, len(self._signs) - 1), kurtosis=4 / variance - 6
        )

    def _signals(self, classes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return signals of mean 0 and variance 1, [n, signals]."""
        signs = self._signs[classes]
        if len(signs):
            self.images = min(self.images + len(signs), _SIGN_IMAGES)
            weight = min(1.0, len(signs) / self.images)
            self._means += weight * (signs.mean(axis=0) - self._means)
        return (signs - self._means) / np.sqrt(self._variances)

    @property
    def _variances(self) -> NDArray[np.float64]:
        return np.maximum(1 - self._means**2, _LEAST_VARIANCE)

    def state(self) -> State:
        """Return the state as arrays, without `images`."""
        return {
            "sign_means": self._means.copy(),
            **named("class_dependence", self._dependence.state()),
        }

    def check(self, state: State) -> None:
        """Raise ValueError if the values are impossible."""
        if (np.abs(state["sign_means"].astype(float)) > 1).any():
            raise ValueError("a mean of signs is above 1")

    def restore(self, state: State, images: int) -> None:
        """Restore the state of an earlier process."""
        self._means[:] = state["sign_means"]
        self.images = images
        self._dependence.restore(part_of(state, "class_dependence"))
