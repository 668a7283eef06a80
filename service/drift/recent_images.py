"""The last images: histograms and mean features, compared with the reference.

A comparison alarms if the difference is both significant and large.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.embedding import (
    Embedding,
    MeanFeatures,
    RecentMean,
    embedding_shift,
)
from tidegate.service.drift.histograms import Int64, Recent, shift
from tidegate.service.drift.images import Images
from tidegate.service.drift.reference import INPUTS, Bins, Reference
from tidegate.service.drift.report import EmbeddingFinding, HistogramFinding
from tidegate.service.drift.state_arrays import State, named

WINDOW = 2_000  # images
RATE_WINDOW = 200  # images, for a rejected share in words
INPUTS_WINDOW = 500  # images with measured input statistics
Z_LIMIT = 5.0
PSI_LIMIT = 0.1
DISTANCE_LIMIT = 0.5  # standard deviations of one image
P_EDGES = np.linspace(0, 1, 11)[1:-1]  # a bin of p-values includes its upper edge


class RecentImages:
    """Histograms and mean features of one model's last images."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._predicted = Recent(len(reference.class_counts), WINDOW)
        self._rejections = Recent(2, RATE_WINDOW)
        self._p_values = Recent(len(P_EDGES) + 1, WINDOW)
        self._binned = {
            name: Recent(len(bins.counts), INPUTS_WINDOW if name in INPUTS else WINDOW)
            for name, bins in reference.histograms.items()
            if name in (*INPUTS, "confidence")
        }
        width = 0 if reference.embedding is None else len(reference.embedding.mean)
        self._features = RecentMean(width, WINDOW)  # width 0 without a reference
        self.answered = 0  # since the state was created
        self.confidence = 0.0  # mean probability of the last images' predicted classes

    @property
    def has_inputs(self) -> bool:
        """Return whether the bundle contains a reference for input statistics."""
        return any(name in self._binned for name in INPUTS)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Return the counts of the last predictions, [classes]."""
        return self._predicted.total

    @property
    def rejected(self) -> tuple[int, int]:
        """Return (rejected, all) of the last images."""
        counts = self._rejections.total
        return int(counts[1]), int(counts.sum())

    def add(self, images: Images) -> None:
        """Count images; rejected ones count only towards the p-values and the rejections."""
        answered = ~images.rejected
        self._p_values.add(P_EDGES.searchsorted(images.p_values))
        self._rejections.add(images.rejected.astype(np.int64))
        self._predicted.add(images.classes[answered])
        confidences = images.confidences[answered]
        self.add_value("confidence", confidences)
        count, mean = self.answered, self.confidence
        for confidence in confidences.tolist():
            count += 1
            mean += (confidence - mean) / (count if count < WINDOW else WINDOW)
        self.answered, self.confidence = count, mean

    def add_value(self, name: str, values: NDArray[np.float64]) -> None:
        """Count values of the histogram with this name, if the bundle has a reference for it."""
        if (recent := self._binned.get(name)) is not None:
            recent.add(self._reference.histograms[name].places(values))

    def add_features(self, features: NDArray[np.float32]) -> None:
        """Add one answered image's features, [D], if the bundle has a reference for them."""
        if self._reference.embedding is not None:
            self._features.add(features)

    def histograms(self, ood_effect: float, class_effect: float) -> dict[str, HistogramFinding]:
        """Compare every histogram with its reference, given the design effects."""
        found = {"p-value": self._of_p_values(ood_effect)}
        for name, recent in self._binned.items():
            bins = self._reference.histograms[name]
            found[name] = compare_histogram(recent.total, bins, class_effect)
        return found

    def embedding(self, class_effect: float) -> EmbeddingFinding | None:
        """Compare the mean features; None if the bundle has no reference for them."""
        if self._reference.embedding is None:
            return None
        return compare_features(self._features, self._reference.embedding, class_effect)

    def _of_p_values(self, ood_effect: float) -> HistogramFinding:
        return compare_p_values(self._p_values.total, self._reference, ood_effect)

    @property
    def _histograms(self) -> dict[str, Recent]:
        return {
            "predicted": self._predicted,
            "rejected": self._rejections,
            "p-value": self._p_values,
            **self._binned,
        }

    def state(self) -> State:
        """Return the state as arrays, without `answered`."""
        counts = {name: recent.counts.copy() for name, recent in self._histograms.items()}
        return {
            "confidence": np.array(self.confidence),
            **named("recent", counts),
            "features.counts": self._features.counts.copy(),
            "features.sums": self._features.sums.copy(),
        }

    def check(self, state: State) -> None:
        """Raise ValueError if the values are impossible."""
        if float(state["confidence"]) > 1:
            raise ValueError("a probability is above 1")
        for name, recent in self._histograms.items():
            recent.check(state[f"recent.{name}"])
        self._features.check(state["features.counts"])

    def restore(self, state: State, answered: int) -> None:
        """Restore the state of an earlier process."""
        self.answered, self.confidence = answered, float(state["confidence"])
        for name, recent in self._histograms.items():
            recent.restore(state[f"recent.{name}"].astype(np.int64))
        counts, sums = state["features.counts"], state["features.sums"]
        self._features.restore(counts.astype(np.int64), sums.astype(np.float64))


def compare_histogram(counts: Int64, bins: Bins, design_effect: float) -> HistogramFinding:
    """Compare counts [bins] with the reference's."""
    return _finding(counts, bins.counts.astype(np.float64), float(bins.counts.sum()), design_effect)


def compare_p_values(counts: Int64, reference: Reference, design_effect: float) -> HistogramFinding:
    """Compare counts between P_EDGES, [10], with calibration.

    There 1/(n + 1), 2/(n + 1), … are equally frequent.
    """
    n = reference.calibration_samples
    ranks = np.floor(np.concatenate([[0], P_EDGES, [1]]) * (n + 1) + 1e-9)
    return _finding(counts, np.diff(ranks), n + 1, design_effect)


def compare_features(
    found: MeanFeatures, reference: Embedding, design_effect: float
) -> EmbeddingFinding:
    """Compare the mean features of some images with the reference's."""
    shifted = embedding_shift(found, reference, design_effect)
    alarm = shifted.z > Z_LIMIT and shifted.distance > DISTANCE_LIMIT
    return EmbeddingFinding(found.images, shifted, alarm)


def _finding(
    counts: Int64, expected: NDArray[np.float64], samples: float, design_effect: float
) -> HistogramFinding:
    found = shift(counts, expected, samples, design_effect)
    alarm = found.z > Z_LIMIT and found.psi_excess > PSI_LIMIT
    return HistogramFinding(int(counts.sum()), found, alarm)
