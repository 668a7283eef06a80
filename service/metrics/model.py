"""The metrics of one loaded version of a model."""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.utils import floatToGoString

from tidegate.service.metrics.declared import Declared, children
from tidegate.service.metrics.drift import DriftGauges
from tidegate.service.metrics.tables import CONFIDENCE_BUCKETS, DECISIONS, MODEL_INFO
from tidegate.service.metrics.together import CHUNK, observe_all

_LABEL_CHARACTERS = 100  # of a class; a longer label is cut


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the metrics need about the served model."""

    name: str
    version: str
    digest: str  # its first digits: as a label it is in every line
    info: Mapping[str, str]  # by the names in MODEL_INFO
    labels: Sequence[str]  # by class id
    class_fraction: Sequence[float]  # of the reference, by class id
    reference_samples: int
    alphas: Mapping[str, float]  # threshold → alpha
    calibration_samples: int  # behind the final p-value
    scores: Sequence[str]  # names of the gate's scores
    score_bounds: Sequence[float]  # ascending: quantiles of all scores' calibration
    max_class_series: int
    confidence_at_most: Mapping[float, float]  # of the reference: bound → share of its images


class ModelMetrics:
    """The served model's predictions and its gate's decisions. Every class starts at 0."""

    def __init__(self, served: ServedModel) -> None:
        """Declare the series in a registry of their own; `Metrics.show_model` renders them."""
        self.registry = CollectorRegistry()
        declared = Declared(self.registry)
        model = (served.name, served.version, served.digest)
        info = (served.info[name] for name in MODEL_INFO)
        declared.gauge("model_info").labels(*model, *info).set(1)
        classes = range(len(served.class_fraction))
        predictions = declared.counter("predictions")
        self._predictions = [predictions.labels(*model, c) for c in classes]
        confidence = declared.histogram("prediction_confidence")
        common = _commonest(served.class_fraction, served.max_class_series)
        self._confidence = [
            confidence.labels(*model, c if c in common else "other") for c in classes
        ]
        self._decisions = children(declared.counter("ood_decisions"), DECISIONS, model)
        self._p_value = declared.histogram("ood_p_value").labels(*model)
        scores = declared.histogram("ood_score", served.score_bounds)
        self._scores = [scores.labels(*model, score) for score in served.scores]
        self._decided: list[tuple[str, float, tuple[float, ...]]] = []  # and not counted yet
        self._predicted: list[tuple[int, float]] = []
        self._feedback = children(declared.counter("feedback"), ("true", "false"), model)
        self._feedback_probability = declared.counter("feedback_probability").labels(*model)
        _set_reference(declared, model, served)
        self.drift = DriftGauges(declared, model)

    def predicted(self, class_id: int, confidence: float) -> None:
        """Record the class of one image that was not rejected."""
        self._predicted.append((class_id, confidence))
        if len(self._predicted) == CHUNK:
            self.count()

    def feedback(self, probability: float, *, correct: bool) -> None:
        """Record one reported class, and the probability of the class that was predicted."""
        self._feedback[str(correct).lower()].inc()
        self._feedback_probability.inc(probability)

    def decided(self, decision: str, p_value: float, scores: Sequence[float]) -> None:
        """Record the gate's decision on one image and the scores behind it, in their order."""
        self._decided.append((decision, p_value, tuple(scores)))
        if len(self._decided) == CHUNK:
            self.count()

    def count(self) -> None:
        """Count what was recorded since the last time; together it takes a tenth of the time."""
        decided, self._decided = self._decided, []
        if decided:
            decisions, p_values, scores = zip(*decided, strict=True)
            for decision, images in Counted(decisions).items():
                self._decisions[decision].inc(images)
            observe_all(self._p_value, p_values)
            for histogram, values in zip(self._scores, zip(*scores, strict=True), strict=True):
                observe_all(histogram, values)
        predicted, self._predicted = self._predicted, []
        confidences: dict[Histogram, list[float]] = {}
        for class_id, confidence in predicted:
            self._predictions[class_id].inc()
            confidences.setdefault(self._confidence[class_id], []).append(confidence)
        for histogram, of_classes in confidences.items():
            observe_all(histogram, of_classes)


def _commonest(class_fraction: Sequence[float], most: int) -> set[int]:
    ranked = sorted(range(len(class_fraction)), key=lambda c: (-class_fraction[c], c))
    return set(ranked[:most])


def _set_reference(declared: Declared, model: tuple[str, str, str], served: ServedModel) -> None:
    """Publish the constant values of the bundle."""
    fraction = declared.gauge("reference_class_fraction")
    for c, (share, label) in enumerate(zip(served.class_fraction, served.labels, strict=True)):
        fraction.labels(*model, c, label[:_LABEL_CHARACTERS]).set(share)
    declared.gauge("reference_samples").labels(*model).set(served.reference_samples)
    declared.gauge("ood_calibration_samples").labels(*model).set(served.calibration_samples)
    alpha = declared.gauge("ood_alpha")
    for threshold, value in served.alphas.items():
        alpha.labels(*model, threshold).set(value)
    confidences = declared.gauge("reference_confidence_ratio")
    for bound in sorted(set(CONFIDENCE_BUCKETS) & served.confidence_at_most.keys()):
        # Formatted like the `le` of prediction_confidence, because queries match the two.
        le = floatToGoString(bound)  # type: ignore[no-untyped-call]  # no types there
        confidences.labels(*model, le).set(served.confidence_at_most[bound])
