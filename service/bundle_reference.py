"""Convert a bundle's reference data for the drift monitors and the metrics."""

from __future__ import annotations

import numpy as np

from tidegate.service.bundle.evidence import ALL_CONFUSIONS_UP_TO
from tidegate.service.bundle.manifest import Histogram
from tidegate.service.bundle.store import Bundle, read_embedding
from tidegate.service.drift.embedding import Embedding
from tidegate.service.drift.reference import Bins, Reference
from tidegate.service.engines.base import EngineInfo
from tidegate.service.metrics import ServedModel

_SCORE_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


def drift_reference(bundle: Bundle) -> Reference:
    """Return the reference of the drift monitors. Reads a file of the bundle."""
    reference, evaluation = bundle.manifest.reference, bundle.manifest.evaluation
    classes = bundle.manifest.task.classes
    confusion = None
    if evaluation is not None and classes <= ALL_CONFUSIONS_UP_TO:
        confusion = np.zeros((classes, classes), np.int64)
        for pair in evaluation.confusions:
            confusion[pair.actual, pair.predicted] = pair.images
    embedding = read_embedding(bundle)
    return Reference(
        class_counts=np.array(reference.class_counts, np.int64),
        alpha_reject=bundle.gate.alpha_reject,
        calibration_samples=bundle.gate.calibration_size,
        histograms={
            name: Bins(np.array(histogram.edges), np.array(histogram.counts, np.int64))
            for name, histogram in reference.histograms.items()
        },
        confusion=confusion,
        embedding=Embedding(**embedding, samples=reference.samples) if embedding else None,
    )


def served_model(bundle: Bundle, info: EngineInfo, max_class_series: int) -> ServedModel:
    """Return what the metrics need about the bundle and the engine that runs it."""
    manifest, gate = bundle.manifest, bundle.gate
    bounds = [np.quantile(fold.scores, _SCORE_QUANTILES) for fold in gate.folds_a.values()]
    return ServedModel(
        name=manifest.name,
        version=manifest.version,
        digest=bundle.short_digest,
        info={
            "preprocess_digest": manifest.preprocess.digest,
            "engine": info.name,
            "precision": info.precision,
            "device": info.device,
            "instructions": info.instructions,
        },
        labels=bundle.labels,
        class_fraction=manifest.reference.class_fraction,
        reference_samples=manifest.reference.samples,
        alphas={"reject": gate.alpha_reject, "review": gate.alpha_review},
        calibration_samples=gate.calibration_size,
        scores=tuple(gate.folds_a),
        score_bounds=np.unique(np.concatenate(bounds)).tolist(),
        max_class_series=max_class_series,
        confidence_at_most=shares_at_most(manifest.reference.histograms.get("confidence")),
    )


def shares_at_most(histogram: Histogram | None) -> dict[float, float]:
    """Return the share of images below each edge; empty if the bundle has no histogram."""
    if histogram is None or not sum(histogram.counts):
        return {}
    shares = np.cumsum(histogram.counts) / sum(histogram.counts)
    return dict(zip(histogram.edges, shares.tolist(), strict=False))  # the last bin has no edge
