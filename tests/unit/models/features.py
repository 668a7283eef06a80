"""Features like a trained network's: clusters, strong directions, dead channels, rectified."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASSES, WIDTH = 10, 48


@dataclass(frozen=True)
class World:
    """Where the classes are and how features scatter around them."""

    means: NDArray[np.float64]  # [CLASSES, WIDTH]
    scatter: NDArray[np.float64]  # [WIDTH, WIDTH]
    weights: NDArray[np.float64]  # [WIDTH, CLASSES]

    def draw(self, n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return features [n, WIDTH] and classes [n]."""
        rng = np.random.default_rng(seed)
        ids = rng.integers(0, CLASSES, n)
        x = self.means[ids] + rng.normal(size=(n, WIDTH)) @ self.scatter
        return np.maximum(x, 0).astype(np.float32), ids

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of a linear classifier on them, [n, CLASSES]."""
        return np.asarray(features @ self.weights, np.float32)


def world(seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    means = rng.gamma(1.0, 1.0, (CLASSES, WIDTH)) * (rng.random((CLASSES, WIDTH)) < 0.6)
    means[:, -3:] = -9.0  # channels that never fire
    scatter = rng.normal(size=(WIDTH, WIDTH)) * np.geomspace(0.6, 0.02, WIDTH)[:, None]
    centred = means - means.mean(axis=0)
    return World(means, scatter, 2 * centred.T / np.linalg.norm(centred, axis=1))
