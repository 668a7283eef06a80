"""The drift reference: class mix and histograms of held-out images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.rows import Float64
from tidegate.service.bundle.manifest import Histogram, ReferenceFit
from tidegate.service.drift.reference import INPUTS
from tidegate.service.imaging.statistics import MODES

_BINS = 10
_MODE_EDGES = tuple(place + 0.5 for place in range(len(MODES)))
_CONFIDENCE_EDGES = tuple(round(0.1 * step, 1) for step in range(1, 10))


def reference_fit(
    predicted: NDArray[np.int64],
    classes: int,
    scores: dict[str, Float64],
    inputs: Float64,
    confidence: Float64,
) -> ReferenceFit:
    """Return the reference of held-out images; each argument has one row per image."""
    histograms = {name: _histogram(values) for name, values in scores.items()}
    histograms |= {name: _histogram(inputs[:, place]) for place, name in enumerate(INPUTS)}
    histograms["mode"] = _counted(inputs[:, INPUTS.index("mode")], _MODE_EDGES)
    histograms["confidence"] = _counted(confidence, _CONFIDENCE_EDGES)
    return ReferenceFit(
        class_counts=class_counts(predicted, classes),
        histograms=histograms,
        note="Predictions on calibration folds A and B; not a traffic forecast.",
    )


def class_counts(predicted: NDArray[np.int64], classes: int) -> tuple[int, ...]:
    """Return the number of images predicted as each class."""
    return tuple(np.bincount(predicted, minlength=classes).tolist())


def _histogram(values: Float64) -> Histogram:
    """Count between the deciles; equal deciles become one edge.

    The values are rounded to float32, so that the last bits of a mean do not matter.
    """
    ordered = np.sort(values.astype(np.float32).astype(np.float64))
    edges = np.unique([ordered[len(ordered) * step // _BINS] for step in range(1, _BINS)])
    return _counted(ordered, tuple(edges.tolist()))


def _counted(values: Float64, edges: tuple[float, ...]) -> Histogram:
    counts = np.bincount(np.searchsorted(edges, values, "right"), minlength=len(edges) + 1)
    return Histogram(edges=edges, counts=tuple(counts.tolist()))
