"""Mean and main axes of held-out features, with which the service detects a moved mean."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh

from tidegate.models.data.rows import Float32, chunks
from tidegate.service.drift.embedding import Embedding

_AXES = 32  # at most
_IMAGES_PER_AXIS = 20


def embedding_fit(features: Float32) -> Embedding:
    """Return the mean of features [n, D], and the axes along which they vary most.

    In float64 and bounded memory. One axis per twenty images, up to _AXES.
    """
    mean = sum(rows.sum(axis=0, dtype=np.float64) for (rows,) in chunks(features)) / len(features)
    covariance = np.zeros((features.shape[1],) * 2)
    for (rows,) in chunks(features):
        centred = rows - mean
        covariance += centred.T @ centred
    width = features.shape[1]
    k = min(_AXES, width, max(1, len(features) // _IMAGES_PER_AXIS))
    variances, directions = eigh(
        covariance / (len(features) - 1), subset_by_index=(width - k, width - 1)
    )
    real = variances > 1e-9 * variances[-1]
    axes = directions[:, real] / np.sqrt(variances[real])
    return Embedding(np.asarray(mean, np.float64), np.asarray(axes, np.float64), len(features))
