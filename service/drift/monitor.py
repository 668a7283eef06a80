"""The drift monitors of one model's traffic. Not thread-safe.

There are two kinds. E-detectors may alarm after any image and guarantee a mean time between false
alarms. Histograms of the last images, and their mean features, alarm if the difference is both
significant and large. Rejected images count only towards the rejection rate and the p-values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.embedding import EmbeddingShift, RecentMean, embedding_shift
from tidegate.service.drift.histograms import Recent, Shift, shift
from tidegate.service.drift.label_shift import LabelShift, label_shift
from tidegate.service.drift.reference import Reference
from tidegate.service.drift.sequential import (
    Evidence,
    MixDetector,
    RateDetector,
    rate_limit,
    share_limits,
)

RUN_LENGTH = 1_000_000  # images; lower bound of an e-detector's mean time between false alarms
WINDOW = 2_000  # images
INPUTS_WINDOW = 500  # images with measured input statistics
Z_LIMIT = 5.0
PSI_LIMIT = 0.1
DISTANCE_LIMIT = 0.5  # standard deviations of one image
INPUTS = (
    "brightness",
    "contrast",
    "blur",
    "megapixels",
    "aspect",
    "bytes_per_pixel",
    "mode",
)
_MOST_IMAGES = 2**53  # beyond it a float64 cannot represent every integer
_P_EDGES = np.linspace(0, 1, 11)[1:-1]

State = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class HistogramFinding:
    """A histogram of recent images compared with its reference."""

    images: int
    shift: Shift
    alarm: bool


@dataclass(frozen=True, slots=True)
class EmbeddingFinding:
    """The mean features of recent images compared with the reference."""

    images: int
    shift: EmbeddingShift
    alarm: bool


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all monitors at one moment."""

    images: int  # observed since the state was created
    detectors: Mapping[str, Evidence]  # ood-rate, class-mix
    histograms: Mapping[str, HistogramFinding]  # p-value, confidence, brightness, …
    embedding: EmbeddingFinding | None  # None if the bundle has no embedding reference
    label_shift: LabelShift | None  # None without a sealed confusion matrix
    expected_accuracy: float | None  # an estimate: the mean probability of the predicted classes

    @property
    def alarms(self) -> frozenset[str]:
        """Return the names of the monitors that alarm."""
        alarms = {name for name, found in self.detectors.items() if found.alarm}
        alarms |= {name for name, found in self.histograms.items() if found.alarm}
        if self.embedding is not None and self.embedding.alarm:
            alarms.add("embedding")
        return frozenset(alarms)


class Monitor:
    """Compares one model's answers with its calibration."""

    def __init__(self, reference: Reference, run_length: float = RUN_LENGTH) -> None:
        self._reference = reference
        self._ood = RateDetector(
            rate_limit(reference.alpha_reject, reference.calibration_samples), run_length
        )
        limits = share_limits(reference.class_fractions.tolist(), reference.samples)
        self._mix = MixDetector(*limits, run_length)
        self._predicted = Recent(len(reference.class_fractions), WINDOW)
        self._p_values = Recent(len(_P_EDGES) + 1, WINDOW)
        self._binned = {
            name: Recent(len(bins.counts), INPUTS_WINDOW if name in INPUTS else WINDOW)
            for name, bins in reference.histograms.items()
            if name in (*INPUTS, "confidence")
        }
        width = 0 if reference.embedding is None else len(reference.embedding.mean)
        self._features = RecentMean(width, WINDOW)  # width 0 without a reference
        self._images = 0
        self._confidence = 0.0  # mean probability of the last images' predicted classes
        self._answered = 0

    @property
    def watches_inputs(self) -> bool:
        """Return whether the bundle contains a reference for input statistics."""
        return any(name in self._binned for name in INPUTS)

    def observe(
        self,
        class_id: int,
        confidence: float,
        p_value: float,
        features: NDArray[np.float32],
        *,
        rejected: bool,
    ) -> None:
        """Add one answered or rejected image; `features` are [D]."""
        self._images += 1
        self._ood.observe(hit=rejected)
        self._p_values.add(int(_P_EDGES.searchsorted(p_value)))  # a bin includes its upper edge
        if rejected:
            return
        self._mix.observe(class_id)
        self._predicted.add(class_id)
        self._count("confidence", confidence)
        if self._reference.embedding is not None:
            self._features.add(features)
        self._answered += 1
        self._confidence += (confidence - self._confidence) / min(self._answered, WINDOW)

    def observe_inputs(self, values: Mapping[str, float]) -> None:
        """Add the statistics of one image, by the names in INPUTS."""
        for name, value in values.items():
            self._count(name, value)

    def report(self) -> Report:
        """Compute the current results. Takes about 1 ms."""
        reference = self._reference
        histograms = {"p-value": self._of_p_values()}
        for name, recent in self._binned.items():
            counts = reference.histograms[name].counts
            histograms[name] = _finding(recent, counts.astype(np.float64), float(counts.sum()))
        predicted = self._predicted.total
        return Report(
            images=self._images,
            detectors={"ood-rate": self._ood.evidence, "class-mix": self._mix.evidence},
            histograms=histograms,
            embedding=self._of_features(),
            label_shift=(
                None if reference.confusion is None else label_shift(predicted, reference.confusion)
            ),
            expected_accuracy=self._confidence if self._answered else None,
        )

    def state(self) -> State:
        """Return the state as arrays, for `restore` in another process."""
        detectors = {"ood-rate": self._ood, "class-mix": self._mix}
        recent = {"predicted": self._predicted, "p-value": self._p_values, **self._binned}
        return {
            "totals": np.array([self._images, self._answered, self._confidence]),
            "alarms": np.array([detector.alarm for detector in detectors.values()]),
            **{f"r.{name}": detector.r.copy() for name, detector in detectors.items()},
            **{f"recent.{name}": counted.counts.copy() for name, counted in recent.items()},
            "features.counts": self._features.counts.copy(),
            "features.sums": self._features.sums.copy(),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Restore the state of a monitor with the same reference.

        Raises KeyError or ValueError if the state does not fit; then the monitor is unchanged.
        """
        mine = self.state()
        given = {name: np.asarray(state[name]) for name in mine}
        for name, array in mine.items():
            if given[name].shape != array.shape or given[name].dtype != array.dtype:
                raise ValueError(f"{name} has another shape or type")
        self._refuse_unsound(given)
        images, answered, self._confidence = given["totals"].tolist()
        self._images, self._answered = int(images), int(answered)
        ood, mix = given["alarms"].tolist()
        self._ood.restore(given["r.ood-rate"], alarm=ood)
        self._mix.restore(given["r.class-mix"], alarm=mix)
        self._predicted.restore(given["recent.predicted"])
        self._p_values.restore(given["recent.p-value"])
        for name, counted in self._binned.items():
            counted.restore(given[f"recent.{name}"])
        self._features.restore(given["features.counts"], given["features.sums"])

    def _refuse_unsound(self, given: State) -> None:
        """Raise ValueError if the values are impossible for a monitor."""
        for name, array in given.items():
            sign = name in ("features.sums", "alarms")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"{name} is not finite")
            if not sign and (array < 0).any():  # type: ignore[operator]  # an array of numbers
                raise ValueError(f"{name} is negative")
        images, answered, confidence = given["totals"].tolist()
        if not (answered <= images <= _MOST_IMAGES and confidence <= 1):
            raise ValueError("totals must be two counts and a probability")
        recent = {"predicted": self._predicted, "p-value": self._p_values, **self._binned}
        for name, counted in recent.items():
            counted.check(given[f"recent.{name}"])
        self._features.check(given["features.counts"])

    def _count(self, name: str, value: float) -> None:
        if (recent := self._binned.get(name)) is not None:
            edges = self._reference.histograms[name].edges
            recent.add(int(edges.searchsorted(value, "right")))

    def _of_features(self) -> EmbeddingFinding | None:
        if self._reference.embedding is None:
            return None
        found = embedding_shift(self._features, self._reference.embedding)
        alarm = found.z > Z_LIMIT and found.distance > DISTANCE_LIMIT
        return EmbeddingFinding(self._features.images, found, alarm)

    def _of_p_values(self) -> HistogramFinding:
        """Compare p-values with calibration, where 1/(n + 1), 2/(n + 1), … are equally frequent."""
        n = self._reference.calibration_samples
        ranks = np.floor(np.concatenate([[0], _P_EDGES, [1]]) * (n + 1) + 1e-9)
        return _finding(self._p_values, np.diff(ranks), n + 1)


def _finding(recent: Recent, expected: NDArray[np.float64], samples: float) -> HistogramFinding:
    counts = recent.total
    found = shift(counts, expected, samples)
    alarm = found.z > Z_LIMIT and found.psi_excess > PSI_LIMIT
    return HistogramFinding(int(counts.sum()), found, alarm)
