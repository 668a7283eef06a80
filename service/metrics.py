"""Every metric, declared once: name, help, labels and buckets. Base units, bounded labels.

Each `Metrics` has a registry of its own, so that tests and reloads do not share state. Children
that a request touches are looked up once, here, because a lookup costs more than the increment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.utils import floatToGoString

ROUTES = (
    *("/classify", "/classify/batch", "/models", "/models/{name}", "/drift", "/feedback"),
    *("/livez", "/readyz", "/metrics", "/", "other", "malformed"),
)
STAGES = ("read", "decode", "queue", "engine", "gates")
DECISIONS = ("accept", "review", "reject")
SCORES = ("energy", "mahalanobis")
SHED_REASONS = (
    "client-connections",
    "client-share",
    "draining",
    "queue-full",
    "upload-bytes",
    "predicted-late",
    "infeasible-deadline",
    "early-drop",
    "deadline",
    "client-gone",
    "device-memory",
)
BATCH_PARTS = ("copy_in", "compute", "copy_out")
REVIEW_OUTCOMES = ("stored", "over-rate", "disk-busy", "failed")
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
STAGE_BUCKETS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
P_VALUE_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
)
CONFIDENCE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the metrics need to know of the model that is served."""

    name: str
    version: str
    info: Mapping[str, str]  # digest, preprocess_digest, engine, precision, device
    class_fraction: Sequence[float]  # of the reference, by class id
    reference_samples: int
    alphas: Mapping[str, float]  # threshold → alpha
    calibration_samples: int  # behind the final p-value
    score_bounds: Sequence[float]  # ascending: quantiles of both scores' calibration
    max_class_series: int
    confidence_at_most: Mapping[float, float]  # of the reference: bound → share of its images


class Metrics:
    """The service's metrics, apart from those of the model it serves."""

    def __init__(self, version: str) -> None:
        # A creation time per class would double the series.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client has no types
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        make = _Maker(self.registry)
        self._requests = make.counter(
            "requests", "HTTP requests answered, by status.", "route", "status"
        )
        for route in ROUTES[:2]:  # from 0, or the first error of a process would be no increase
            for status in (200, 500, 503, 504):
                self._requests.labels(route, status)
        durations = make.histogram(
            "request_duration_seconds",
            "From a request's headers to the last byte of its answer.",
            REQUEST_BUCKETS,
            "route",
        )
        self._durations = {route: durations.labels(route) for route in ROUTES}
        stages = make.histogram(
            "stage_duration_seconds",
            "Time an answered image spent in each stage of the road.",
            STAGE_BUCKETS,
            "stage",
        )
        self.stages = {stage: stages.labels(stage) for stage in STAGES}
        self.batch_size = make.histogram(
            "batch_size", "Images per batch given to the engine.", BATCH_BUCKETS
        )
        parts = make.histogram(
            "batch_duration_seconds",
            "Time on a GPU of each part of a batch, by the GPU's own clock.",
            STAGE_BUCKETS,
            "part",
        )
        self._parts = {part: parts.labels(part) for part in BATCH_PARTS}
        self.queue_depth = make.gauge(
            "queue_depth", "Images admitted and not yet given to the engine."
        )
        self.inflight = make.gauge("inflight_requests", "Requests being worked on.")
        shed = make.counter("shed", "Images refused or dropped, by reason.", "reason")
        self._shed = {reason: shed.labels(reason) for reason in SHED_REASONS}
        self.slot_busy = make.counter(
            "slot_busy_seconds", "Time engine slots spent running batches, summed over slots."
        )
        review = make.counter(
            "review_images", "Images to be kept for review, by what became of them.", "outcome"
        )
        self._review = {outcome: review.labels(outcome) for outcome in REVIEW_OUTCOMES}
        feedback = make.counter(
            "feedback", "Answers whose true class was told, by whether it was predicted.", "correct"
        )
        self._feedback = {
            correct: feedback.labels(str(correct).lower()) for correct in (True, False)
        }
        self._feedback_probability = make.counter(
            "feedback_probability",
            "Sum of the predicted classes' probabilities over those answers: expected hits.",
        )
        self.log_lines_dropped = make.counter(
            "log_lines_dropped", "Log lines not written: stderr's reader was too slow, or gone."
        )
        make.gauge("build_info", "The running version of Tidegate.", "version").labels(version).set(
            1
        )

    def request(self, route: str, status: int, duration_s: float) -> None:
        """Record one answered request; routes not in ROUTES count as `other`."""
        route = route if route in self._durations else "other"
        self._requests.labels(route, status).inc()
        self._durations[route].observe(duration_s)

    def shed(self, reason: str) -> None:
        """Record one image refused or dropped."""
        self._shed[reason].inc()

    def batch_parts(self, parts_s: Mapping[str, float]) -> None:
        """Record what is known of where a batch's time went."""
        for part, seconds in parts_s.items():
            self._parts[part].observe(seconds)

    def reviewed(self, outcome: str) -> None:
        """Record what became of one image to be kept for review."""
        self._review[outcome].inc()

    def feedback(self, probability: float, *, correct: bool) -> None:
        """Record one true class, and the probability that was answered for the predicted one."""
        self._feedback[correct].inc()
        self._feedback_probability.inc(probability)

    def follow_queue(self, depth: Callable[[], int]) -> None:
        """Read the queue's depth whenever it is scraped."""
        self.queue_depth.set_function(depth)

    def render(self) -> bytes:
        """Return the exposition text. Takes milliseconds with many classes: not on the loop."""
        return generate_latest(self.registry)


class ModelMetrics:
    """What the served model predicts and how its gate decides. Every class starts at 0."""

    def __init__(self, registry: CollectorRegistry, served: ServedModel) -> None:
        make = _Maker(registry)
        model = (served.name, served.version)
        labels = ("model", "version")
        classes = range(len(served.class_fraction))
        make.gauge(
            "model_info", "The model that is served, and what runs it.", *labels, *served.info
        ).labels(*model, *served.info.values()).set(1)

        predictions = make.counter(
            "predictions",
            "Images not rejected, by predicted class id.",
            *labels,
            "class",
        )
        self._predictions = [predictions.labels(*model, c) for c in classes]
        confidence = make.histogram(
            "prediction_confidence",
            "Probability of the predicted class, by class id; rare classes fold into other.",
            CONFIDENCE_BUCKETS,
            *labels,
            "class",
        )
        common = _commonest(served.class_fraction, served.max_class_series)
        self._confidence = [
            confidence.labels(*model, c if c in common else "other") for c in classes
        ]

        decisions = make.counter("ood_decisions", "The gate's decisions.", *labels, "decision")
        self._decisions = {name: decisions.labels(*model, name) for name in DECISIONS}
        self._p_value = make.histogram(
            "ood_p_value",
            "The gate's final p-value: uniform as long as nothing drifts.",
            P_VALUE_BUCKETS,
            *labels,
        ).labels(*model)
        scores = make.histogram(
            "ood_score",
            "The gate's raw scores; the bounds are quantiles of their calibration.",
            served.score_bounds,
            *labels,
            "score",
        )
        self._scores = {name: scores.labels(*model, name) for name in SCORES}

        fraction = make.gauge(
            "reference_class_fraction",
            "Share of each class among predictions on the reference images.",
            *labels,
            "class",
        )
        for c in classes:
            fraction.labels(*model, c).set(served.class_fraction[c])
        make.gauge(
            "reference_samples", "How many images the reference was made from.", *labels
        ).labels(*model).set(served.reference_samples)
        make.gauge(
            "ood_calibration_samples", "How many images the final p-value is out of.", *labels
        ).labels(*model).set(served.calibration_samples)
        alpha = make.gauge(
            "ood_alpha", "p-values at or below this are rejected or reviewed.", *labels, "threshold"
        )
        for threshold, value in served.alphas.items():
            alpha.labels(*model, threshold).set(value)

        confidences = make.gauge(
            "reference_confidence_ratio",
            "Share of the reference images whose confidence is at most `le`, where that is sealed.",
            *labels,
            "le",
        )
        for bound in sorted(set(CONFIDENCE_BUCKETS) & served.confidence_at_most.keys()):
            share = served.confidence_at_most[bound]
            # Spelt as the histogram's own `le` is, for the two are matched.
            le = floatToGoString(bound)  # type: ignore[no-untyped-call]  # no types there
            confidences.labels(*model, le).set(share)

        self.drift = DriftGauges(make, model)

    def predicted(self, class_id: int, confidence: float) -> None:
        """Record the class of one image that was not rejected."""
        self._predictions[class_id].inc()
        self._confidence[class_id].observe(confidence)

    def decided(self, decision: str, p_value: float, scores: Mapping[str, float]) -> None:
        """Record the gate's decision on one image and the scores behind it."""
        self._decisions[decision].inc()
        self._p_value.observe(p_value)
        for score, value in scores.items():
            self._scores[score].observe(value)


class DriftGauges:
    """What the service's own drift monitors say; what a bundle lacks has no series."""

    def __init__(self, make: _Maker, model: tuple[str, str]) -> None:
        self._model = model
        gauge = make.gauge
        by_monitor = ("model", "version", "monitor")
        self._alarm = gauge("drift_alarm", "1 while a drift monitor alarms.", *by_monitor)
        self._z = gauge(
            "drift_z",
            "Recent images' histogram or mean against its reference: normal while nothing drifts.",
            *by_monitor,
        )
        self._psi_excess = gauge(
            "drift_psi_excess",
            "Population stability index of the same, less what noise gives.",
            *by_monitor,
        )
        self._distance = gauge(
            "drift_embedding_distance",
            "How far the features' mean has moved, in standard deviations of one image.",
            *("model", "version"),
        )
        self._evidence = gauge(
            "drift_evidence_ratio",
            "An e-detector's evidence over its threshold: it alarms from 1 on.",
            *by_monitor,
        )
        self._accuracy = gauge(
            "expected_accuracy_ratio",
            "An estimate: the mean probability of the classes predicted lately.",
            *("model", "version"),
        )
        self._fraction = gauge(
            "drift_label_shift_fraction",
            "Estimated share of each true class, where the bundle has its confusions.",
            *("model", "version", "class"),
        )
        self._residual = gauge(
            "drift_label_shift_residual_z",
            "How far that estimate is from explaining the predicted classes.",
            *("model", "version"),
        )

    def detector(self, monitor: str, *, alarm: bool, evidence: float) -> None:
        """Publish an e-detector's evidence, 1 being its threshold."""
        self._alarm.labels(*self._model, monitor).set(alarm)
        self._evidence.labels(*self._model, monitor).set(evidence)

    def histogram(self, monitor: str, *, alarm: bool, z: float, psi_excess: float) -> None:
        """Publish how a histogram of recent images compares."""
        self._alarm.labels(*self._model, monitor).set(alarm)
        self._z.labels(*self._model, monitor).set(z)
        self._psi_excess.labels(*self._model, monitor).set(psi_excess)

    def embedding(self, *, alarm: bool, z: float, distance: float) -> None:
        """Publish how the mean of recent images' features compares."""
        self._alarm.labels(*self._model, "embedding").set(alarm)
        self._z.labels(*self._model, "embedding").set(z)
        self._distance.labels(*self._model).set(distance)

    def expected_accuracy(self, estimate: float) -> None:
        """Publish the estimate."""
        self._accuracy.labels(*self._model).set(estimate)

    def label_shift(self, fractions: Sequence[float], residual_z: float) -> None:
        """Publish the estimated mix of true classes, [classes], and what it leaves unexplained."""
        for c, fraction in enumerate(fractions):
            self._fraction.labels(*self._model, c).set(fraction)
        self._residual.labels(*self._model).set(residual_z)


def _commonest(class_fraction: Sequence[float], most: int) -> set[int]:
    ranked = sorted(range(len(class_fraction)), key=lambda c: (-class_fraction[c], c))
    return set(ranked[:most])


class _Maker:
    """Declares metrics in one registry, under one prefix."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"tidegate_{name}", text, labels, registry=self._registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"tidegate_{name}", text, labels, registry=self._registry)

    def histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"tidegate_{name}", text, labels, buckets=buckets, registry=self._registry)
