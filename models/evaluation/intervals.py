"""95 % intervals of proportions: Wilson's, the exact beta interval, and one for means.

Successes and images are counts of the same shape; the limits have that shape and are in [0, 1].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri

from tidegate.service.bundle.evidence import Share

Float64 = NDArray[np.float64]
_TAIL = 0.025  # on each side
_Z = float(ndtri(1 - _TAIL))


def wilson(successes: ArrayLike, images: ArrayLike) -> tuple[Float64, Float64]:
    """Return the limits of Wilson's score interval (Wilson 1927); `images` is positive."""
    k, n = np.asarray(successes, np.float64), np.asarray(images, np.float64)
    p = k / n
    centre = p + _Z**2 / (2 * n)
    half = _Z * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    # exactly 0 or 1 at the ends: with rounding, the interval could exclude the share itself
    low = np.where(k == 0, 0.0, np.clip((centre - half) / scale, 0, 1))
    high = np.where(k == n, 1.0, np.clip((centre + half) / scale, 0, 1))
    return low, high


def clopper_pearson(successes: ArrayLike, images: ArrayLike) -> tuple[Float64, Float64]:
    """Return the limits of the exact interval: quantiles of two beta distributions.

    Its coverage is at least 95 % for every share (Clopper & Pearson 1934), so it suits small shares
    such as a false-rejection rate. `images` is positive.
    """
    k, n = np.asarray(successes, np.float64), np.asarray(images, np.float64)
    # `np.where` evaluates both branches, so the unused one needs valid shape parameters
    low = np.where(k == 0, 0.0, betaincinv(np.maximum(k, 1), n - k + 1, _TAIL))
    high = np.where(k == n, 1.0, betaincinv(k + 1, np.maximum(n - k, 1), 1 - _TAIL))
    return low, high


def wilson_share(successes: int, images: int) -> Share:
    """Return successes / images with its Wilson interval."""
    low, high = wilson(successes, images)
    return Share(value=successes / images, low=float(low), high=float(high), images=images)


def beta_share(successes: int, images: int) -> Share:
    """Return successes / images with its exact beta interval."""
    low, high = clopper_pearson(successes, images)
    return Share(value=successes / images, low=float(low), high=float(high), images=images)


def mean_share(successes: NDArray[np.int64], images: NDArray[np.int64]) -> Share:
    """Return the unweighted mean of K independent proportions with its interval.

    With p_k the proportions and l_k, u_k their Wilson limits, the interval is
    mean(p) − √Σ(p_k − l_k)² / K to mean(p) + √Σ(u_k − p_k)² / K: the method of variance
    estimates recovery (Zou & Donner 2008), which is valid also if some p_k are 0 or 1.
    `successes` and `images` are [K]; every class has at least one image.
    """
    low, high = wilson(successes, images)
    p = successes / images
    mean = float(p.mean())
    below = float(np.sqrt(np.square(p - low).sum())) / len(p)
    above = float(np.sqrt(np.square(high - p).sum())) / len(p)
    return Share(
        value=mean,
        low=max(0.0, mean - below),
        high=min(1.0, mean + above),
        images=int(images.sum()),
    )
