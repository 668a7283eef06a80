"""The OOD scores in float64 NumPy, the reference implementation for the sealed graph.

The service reads the scores from the graph; fitting and tests compute them here.
A higher score is more unusual.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
ENTROPY_CLASSES, ENTROPY_POWER = 100, 0.1


def energy_score(logits: NDArray[np.floating], temperature: float) -> Float64:
    """Return the free energy −T·logsumexp(logits / T), [batch] (Liu et al. 2020, eq. 4).

    `logits` is [batch, classes]; `temperature` is the gate's own, not the calibration's.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    peak = scaled.max(axis=1)
    total = np.exp(scaled - peak[:, None]).sum(axis=1)
    return -temperature * (peak + np.log(total))  # type: ignore[no-any-return]  # numpy's stubs


def entropy_score(logits: NDArray[np.floating]) -> Float64:
    """Return the generalised entropy Σ p^γ of softmax(logits), [batch], with γ = ENTROPY_POWER.

    The sum is over the ENTROPY_CLASSES largest p. It is GEN (Liu et al. 2023, eq. 3) without the
    factor 1 − p, which float32 cannot represent for a confident network.
    """
    scaled = np.asarray(logits, np.float64)
    log_p = scaled + energy_score(scaled, 1.0)[:, None]
    largest = np.sort(log_p, axis=1)[:, -ENTROPY_CLASSES:]
    return np.asarray(np.exp(ENTROPY_POWER * largest).sum(axis=1))


def clipped_energy_score(
    features: NDArray[np.floating],
    ceiling: float,
    weights: NDArray[np.floating],
    bias: NDArray[np.floating],
) -> Float64:
    """Return the energy at T = 1 of the logits of clipped features, [batch] (ReAct, Sun 2021).

    `features` are [batch, D] and not above `ceiling` after clipping; `weights` [classes, D] and
    `bias` [classes] are the network's last layer.
    """
    clipped = np.minimum(np.asarray(features, np.float64), ceiling)
    return energy_score(clipped @ np.asarray(weights, np.float64).T + bias, 1.0)


def linear_score(features: NDArray[np.floating], direction: NDArray[np.floating]) -> Float64:
    """Return features · direction, [batch]."""
    return np.asarray(np.asarray(features, np.float64) @ np.asarray(direction, np.float64))


def mahalanobis_score(
    features: NDArray[np.floating],
    centre: NDArray[np.floating],
    whitening: NDArray[np.floating] | None,
    means: NDArray[np.floating],
    *,
    normalise: bool,
    offset: NDArray[np.floating] | None = None,
    background: NDArray[np.floating] | None = None,
    basis: NDArray[np.floating] | None = None,
    residual: float = 0.0,
) -> tuple[Float64, NDArray[np.int64]]:
    """Return the squared distance to the nearest class mean and that class, both [batch].

    `features` [batch, D] are centred on `centre` [D], scaled to unit length if `normalise`
    (Mahalanobis++, Müller & Hein 2025), centred again on `offset` [D] and multiplied by
    `whitening` [D, D']; the last two are skipped if None. `means` [classes, D'] are in the whitened
    space (Lee et al. 2018, with a tied covariance). `background` [D, D″] whitens all classes
    together around the same centre, and the resulting squared length is subtracted (Ren et al.
    2021).

    With an orthonormal `basis` [D, k] only the coordinates along it are whitened, and the squared
    length of the rest, in which all classes have one mean and variance, counts `residual` times
    (as in probabilistic principal components, Tipping & Bishop 1999).
    """
    z = centred(features, centre, normalise=normalise, offset=offset)
    rest = np.zeros(len(z))
    if basis is not None:
        along = z @ np.asarray(basis, np.float64)
        rest = residual * (_squared_length(z) - _squared_length(along))
        z = along
    x = z if whitening is None else z @ np.asarray(whitening, np.float64)
    m = np.asarray(means, np.float64)
    nearest = np.argmax(x @ m.T - 0.5 * (m * m).sum(axis=1), axis=1)
    distance = _squared_length(x - m[nearest]) + rest
    if background is not None:
        distance = distance - _squared_length(z @ np.asarray(background, np.float64))
    return distance, nearest


def centred(
    features: NDArray[np.floating],
    centre: NDArray[np.floating],
    *,
    normalise: bool,
    offset: NDArray[np.floating] | None,
) -> Float64:
    """Return the centred and normalised features before whitening, [batch, D]."""
    z = np.asarray(features, np.float64) - np.asarray(centre, np.float64)
    if normalise:
        z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    return z if offset is None else z - np.asarray(offset, np.float64)


def _squared_length(x: Float64) -> Float64:
    return np.asarray(np.einsum("bd,bd->b", x, x))
