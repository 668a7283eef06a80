"""The two OOD scores in float64 NumPy: the reference that the sealed graph is held to.

Serving reads the scores from the graph; fitting and tests compute them here.
Higher is more unusual.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


def energy_score(logits: NDArray[np.floating], temperature: float) -> Float64:
    """Return the free energy −T·logsumexp(logits / T), [batch] (Liu et al. 2020, eq. 4).

    `logits` is [batch, classes]; `temperature` is the gate's own, not the calibration's.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    peak = scaled.max(axis=1)
    total = np.exp(scaled - peak[:, None]).sum(axis=1)
    return -temperature * (peak + np.log(total))  # type: ignore[no-any-return]  # numpy's stubs


def mahalanobis_score(
    features: NDArray[np.floating],
    centre: NDArray[np.floating],
    whitening: NDArray[np.floating] | None,
    means: NDArray[np.floating],
    *,
    normalise: bool,
) -> tuple[Float64, NDArray[np.int64]]:
    """Return the squared distance to the nearest class mean and that class, both [batch].

    `features` [batch, D] are centred on `centre` [D], brought to unit length if `normalise`
    (Mahalanobis++, Müller & Hein 2025), then multiplied by `whitening` [D, D'] if there is one.
    `means` [classes, D'] live in that whitened space (Lee et al. 2018, with a tied covariance).
    """
    z = np.asarray(features, np.float64) - np.asarray(centre, np.float64)
    if normalise:
        z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    if whitening is not None:
        z = z @ np.asarray(whitening, np.float64)
    m = np.asarray(means, np.float64)
    nearest = np.argmax(z @ m.T - 0.5 * (m * m).sum(axis=1), axis=1)
    difference = z - m[nearest]
    return (difference * difference).sum(axis=1), nearest
