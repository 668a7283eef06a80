"""Mean and main axes of held-out features, with which the service detects a moved mean."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh

from tidegate.models import exact
from tidegate.models.data.rows import Float32, Float64, chunks
from tidegate.service.drift.embedding import Embedding

_AXES = 32  # at most
_IMAGES_PER_AXIS = 20
# Eigenvectors of two LAPACK releases differ by about 1e-12. Rounded to this grid they are equal,
# except if one of the 32 · D values is within 1e-12 of the middle between two steps: for
# D = 2,048, in about one of 2,000 fits.
_GRID = 2.0**-12


def embedding_fit(features: Float32) -> Embedding:
    """Return the mean of features [n, D], and the axes along which they vary most.

    In float64 and bounded memory. One axis per twenty images, up to _AXES.
    """
    mean = sum(exact.column_sums(rows) for (rows,) in chunks(features)) / len(features)
    covariance = np.zeros((features.shape[1],) * 2)
    for (rows,) in chunks(features):
        centred = rows - mean
        covariance += exact.product(centred.T, centred)
    covariance /= len(features) - 1
    axes = _whitened(_main_directions(covariance, len(features)), covariance)
    return Embedding(np.asarray(mean, np.float64), axes, len(features))


def _main_directions(covariance: Float64, images: int) -> Float64:
    """Return rounded eigenvectors [D, k] with an unambiguous sign."""
    width = len(covariance)
    k = min(_AXES, width, max(1, images // _IMAGES_PER_AXIS))
    variances, directions = eigh(covariance, subset_by_index=(width - k, width - 1))
    found = directions[:, variances > 1e-9 * variances[-1]]
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=0)[None], axis=0)
    return np.asarray(np.rint(found * np.sign(largest) / _GRID) * _GRID)


def _whitened(directions: Float64, covariance: Float64) -> Float64:
    """Return a basis of the directions' span along which features have unit covariance, [D, k]."""
    along = exact.product(exact.product(directions.T, covariance), directions)
    return exact.times_inverse_transpose(directions, exact.cholesky(along))
