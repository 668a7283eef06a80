"""Every metric, declared once: name, help, labels and buckets. Base units, bounded labels.

Each `Metrics` has a separate registry, so that tests and reloads do not share state. The children
used by requests are looked up once, because a lookup costs more than the increment.
"""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.utils import floatToGoString

from tidegate.service.exposition import Exposition, ModelRegistries

PREFIX = "tidegate_"
CLASSIFY_ROUTES = (
    "/classify",
    "/classify/batch",
    "/models/{name}/classify",
    "/models/{name}/classify/batch",
    "/models/{name}/versions/{version}/classify",
    "/models/{name}/versions/{version}/classify/batch",
)
ROUTES = (
    *CLASSIFY_ROUTES,
    "/preprocess",
    "/explain",
    "/models/{name}/preprocess",
    "/models/{name}/explain",
    "/models/{name}/versions/{version}/preprocess",
    "/models/{name}/versions/{version}/explain",
    "/models/{name}/calibration",
    "/models/{name}/versions/{version}/calibration",
    "/page/{file}",
    "/models",
    "/models/{name}",
    "/models/{name}/rollout",
    "/models/{name}/versions/{version}",
    "/models/{name}/versions/{version}/drift",
    "/admin/reload",
    "/admin/models/{name}/promote",
    "/admin/models/{name}/rollback",
    "/drift",
    "/feedback",
    "/livez",
    "/readyz",
    "/metrics",
    "/",
    "other",
    "malformed",
)
STAGES = ("read", "decode", "queue", "engine", "gates")
DECISIONS = ("accept", "review", "reject")
SHED_REASONS = (
    "client-connections",
    "client-share",
    "draining",
    "model-share",
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
SHADOW_OUTCOMES = ("compared", "dropped", "failed")
ROLLOUT_STEPS = ("promote", "promote-shadow", "rollback")
TRACE_OUTCOMES = ("exported", "dropped", "failed")
RELOAD_OUTCOMES = ("loaded", "unchanged", "refused", "unloaded")
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# fmt: off
STAGE_BUCKETS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
    0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5,
)
P_VALUE_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0,
)
# fmt: on
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
CONFIDENCE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_CHUNK = 64  # images of a model, that are counted together
_LABEL_CHARACTERS = 100  # of a class; a longer label is cut

# With the digest, because two bundles may have one name and version.
MODEL = ("model", "version", "digest")
MODEL_INFO = ("preprocess_digest", "engine", "precision", "device")
MONITOR = (*MODEL, "monitor")

COUNTERS = {
    "requests": ("HTTP requests answered, by status.", ("route", "status")),
    "client_requests": (
        "HTTP requests answered for each client with an API key, by status.",
        ("client", "status"),
    ),
    "shed": ("Images refused or dropped, by reason.", ("reason",)),
    "slot_busy_seconds": ("Time engine slots spent running batches, summed over slots.", ()),
    "review_images": ("Images selected for review, by outcome.", ("outcome",)),
    "feedback": (
        "Answers with feedback, by whether the predicted class was correct.",
        (*MODEL, "correct"),
    ),
    "feedback_probability": (
        "Sum of the predicted classes' probabilities over answers with feedback: "
        "the expected number of correct predictions.",
        MODEL,
    ),
    "shadow_images": (
        "Images that a shadow was to compute again, by outcome.",
        ("model", "outcome"),
    ),
    "rollout_steps": (
        "Canaries and shadows that were promoted, and versions that were rolled back.",
        ("model", "step"),
    ),
    "reload": ("Reloads of a model, by outcome.", ("model", "outcome")),
    "log_lines_dropped": ("Log lines dropped because stderr was not read in time.", ()),
    "audit_lines_dropped": ("Lines of the audit log dropped because they were not written.", ()),
    "log_lines_left_out": (
        "Successful requests that were not logged, because of TIDEGATE_LOG_SHARE.",
        (),
    ),
    "front_ends_replaced": ("Front-end processes that ended and were replaced.", ()),
    "traces": ("Traced requests, by what became of their spans.", ("outcome",)),
    "predictions": ("Images not rejected, by predicted class id.", (*MODEL, "class")),
    "ood_decisions": ("Decisions of the gate.", (*MODEL, "decision")),
    "drift_near_duplicates": (
        "Images that the drift monitors did not count, as nearly the same one was just counted.",
        MODEL,
    ),
}
HISTOGRAMS = {
    "request_duration_seconds": (
        "Time from the headers of a request to the last byte of its response.",
        ("route",),
        REQUEST_BUCKETS,
    ),
    "stage_duration_seconds": (
        "Time an answered image spent in each stage.",
        ("stage",),
        STAGE_BUCKETS,
    ),
    "batch_size": ("Images per batch run by the engine.", (), BATCH_BUCKETS),
    "batch_duration_seconds": (
        "Time of each part of a batch on a GPU, by the GPU's clock.",
        ("part",),
        STAGE_BUCKETS,
    ),
    "prediction_confidence": (
        "Probability of the predicted class, by class id; rare classes count as other.",
        (*MODEL, "class"),
        CONFIDENCE_BUCKETS,
    ),
    "ood_p_value": (
        "Final p-value of the gate; uniformly distributed without drift.",
        MODEL,
        P_VALUE_BUCKETS,
    ),
    "ood_score": (
        "Raw scores of the gate; bucket bounds are quantiles of the calibration scores.",
        (*MODEL, "score"),
        None,  # from the bundle
    ),
}
GAUGES = {
    "queue_depth": ("Images admitted and waiting for the engine.", ()),
    "inflight_requests": ("Requests in progress.", ()),
    "front_ends": ("Front-end processes that run; 0 if one process does everything.", ()),
    "configuration_refused": (
        "1 while the content of a file on disk is not usable and what was loaded before it is "
        "still in use: the API keys, or the TLS certificate.",
        ("file",),
    ),
    "build_info": ("The running version of Tidegate.", ("version",)),
    "model_info": (
        "The served model and the engine that runs it.",
        (*MODEL, *MODEL_INFO),
    ),
    "model_alias": (
        "1 for each alias of a served version: stable, canary, shadow and others.",
        (*MODEL, "alias"),
    ),
    "reference_class_fraction": (
        "Share of each class among predictions on the reference images, with the class's label.",
        (*MODEL, "class", "label"),
    ),
    "reference_samples": ("Number of reference images.", MODEL),
    "ood_calibration_samples": (
        "Number of calibration images for the final p-value.",
        MODEL,
    ),
    "ood_alpha": (
        "Threshold of the p-value: images at or below it are rejected or marked for review.",
        (*MODEL, "threshold"),
    ),
    "reference_confidence_ratio": (
        "Share of the reference images with a confidence of at most `le`, if the bundle has it.",
        (*MODEL, "le"),
    ),
    "drift_alarm": ("1 while the alarm of a drift monitor is active.", MONITOR),
    "drift_z": (
        "Standardised difference of recent images from the reference; "
        "standard normal without drift.",
        MONITOR,
    ),
    "drift_psi_excess": (
        "Population stability index of recent images minus its expected value from noise.",
        MONITOR,
    ),
    "drift_embedding_distance": (
        "Distance between the mean features of recent images and of the reference, "
        "in standard deviations of one image.",
        MODEL,
    ),
    "drift_evidence_ratio": (
        "Evidence of a detector divided by its threshold; its alarm starts at 1.",
        MONITOR,
    ),
    "drift_design_effect_ratio": (
        "Images that count as much as one independent image, as learned from the traffic.",
        MONITOR,
    ),
    "drift_learned_days": (
        "Days from which the drift monitors have learned the usual variation; complete from 7 on.",
        MODEL,
    ),
    "expected_accuracy_ratio": (
        "Estimated accuracy: the mean probability of recently predicted classes.",
        MODEL,
    ),
    "drift_label_shift_fraction": (
        "Estimated share of each true class, if the bundle has a confusion matrix.",
        (*MODEL, "class"),
    ),
    "drift_label_shift_residual_z": (
        "Part of the predicted classes that the estimated shares do not explain, standardised.",
        MODEL,
    ),
}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the metrics need about the served model."""

    name: str
    version: str
    digest: str  # its first digits: as a label it is in every line
    info: Mapping[str, str]  # preprocess_digest, engine, precision, device
    labels: Sequence[str]  # by class id
    class_fraction: Sequence[float]  # of the reference, by class id
    reference_samples: int
    alphas: Mapping[str, float]  # threshold → alpha
    calibration_samples: int  # behind the final p-value
    scores: Sequence[str]  # names of the gate's scores
    score_bounds: Sequence[float]  # ascending: quantiles of all scores' calibration
    max_class_series: int
    confidence_at_most: Mapping[float, float]  # of the reference: bound → share of its images


class Metrics:
    """The metrics of the service, and of every loaded version of a model."""

    def __init__(self, version: str) -> None:
        # A creation time per class would double the series.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client has no types
        self.registry = CollectorRegistry()
        for collect in (ProcessCollector, PlatformCollector, GCCollector):
            collect(registry=self.registry)
        declared = _Declared(self.registry)
        self._requests = declared.counter("requests")
        self._client_requests = declared.counter("client_requests")
        self._clients: frozenset[str] = frozenset()
        self._configuration_refused = declared.gauge("configuration_refused")
        self._duration = declared.histogram("request_duration_seconds")
        self._durations: dict[str, Histogram] = {}  # by route
        self.serve_routes(ROUTES, CLASSIFY_ROUTES)
        self._stages = declared.histogram("stage_duration_seconds")
        self.stages = _children(self._stages, STAGES)
        self.batch_size = declared.histogram("batch_size")
        self._parts = _children(declared.histogram("batch_duration_seconds"), BATCH_PARTS)
        self.queue_depth = declared.gauge("queue_depth")
        self.inflight = declared.gauge("inflight_requests")
        self._front_ends = declared.gauge("front_ends")
        self.front_ends_replaced = declared.counter("front_ends_replaced")
        self._shed_images = declared.counter("shed")
        self._shed = _children(self._shed_images, SHED_REASONS)
        self.slot_busy = declared.counter("slot_busy_seconds")
        self._review_images = declared.counter("review_images")
        self._review = _children(self._review_images, REVIEW_OUTCOMES)
        self.log_lines_dropped = declared.counter("log_lines_dropped")
        self.audit_lines_dropped = declared.counter("audit_lines_dropped")
        self.log_lines_left_out = declared.counter("log_lines_left_out")
        self._traced_requests = declared.counter("traces")
        self._traces = _children(self._traced_requests, TRACE_OUTCOMES)
        declared.gauge("build_info").labels(version).set(1)
        self._reloads = declared.counter("reload")
        self._reloads.labels("", "refused")  # starts at 0: the serving file names no model then
        self._shadow = declared.counter("shadow_images")
        self._steps = declared.counter("rollout_steps")
        self._aliases = declared.gauge("model_alias")
        self._shown_aliases: set[tuple[str, str, str, str]] = set()
        self._models = ModelRegistries()
        self._shown: list[ModelMetrics] = []
        self.registry.register(self._models)
        self._exposition = Exposition(self.registry)

    def serve_routes(self, routes: Sequence[str], classifying: Sequence[str]) -> None:
        """Declare routes; the counters of those that answer images start at 0.

        Otherwise their first error would not be an increase.
        """
        self._durations |= _children(self._duration, routes)
        for route in classifying:
            for status in (200, 500, 503, 504):
                self._requests.labels(route, status)

    def request(
        self, route: str, status: int, duration_s: float, trace_id: str | None = None
    ) -> None:
        """Record one answered request; routes that were not declared count as `other`.

        A trace becomes the exemplar of its bucket.
        """
        route = route if route in self._durations else "other"
        self._requests.labels(route, status).inc()
        exemplar = None if trace_id is None else {"trace_id": trace_id}
        self._durations[route].observe(duration_s, exemplar)

    def client_request(self, client: str, status: int) -> None:
        """Record one answered request of a client whose name is configured."""
        if client in self._clients:
            self._client_requests.labels(client, status).inc()

    def set_clients(self, names: frozenset[str]) -> None:
        """Forget the series of clients that are no longer configured, so that they are bounded."""
        self._clients = names
        for client, status in list(self._client_requests._metrics):
            if client not in names:
                self._client_requests.remove(client, status)

    def refused_configuration(self, file: str, refused: bool) -> None:
        """Publish whether the content of a configuration file is refused."""
        self._configuration_refused.labels(file).set(refused)

    @property
    def routes(self) -> tuple[str, ...]:
        """Return the patterns of the routes that are counted by name."""
        return tuple(self._durations)

    def shed(self, reason: str) -> None:
        """Record one image refused or dropped."""
        self._shed[reason].inc()

    def batch_parts(self, parts_s: Mapping[str, float]) -> None:
        """Record the measured parts of a batch's duration."""
        for part, seconds in parts_s.items():
            self._parts[part].observe(seconds)

    def reviewed(self, outcome: str) -> None:
        """Record the outcome of one image selected for review."""
        self._review[outcome].inc()

    def traced(self, outcome: str, requests: int) -> None:
        """Record what became of the spans of traced requests. On any thread."""
        self._traces[outcome].inc(requests)

    def show_model(self, model_metrics: ModelMetrics) -> None:
        """Render the series of a version from now on."""
        self._models.add(model_metrics.registry)
        self._shown.append(model_metrics)

    def hide_model(self, model_metrics: ModelMetrics) -> None:
        """Stop rendering the series of a version that answers no requests any longer."""
        self._models.remove(model_metrics.registry)
        self._shown.remove(model_metrics)

    def set_aliases(self, aliases: Iterable[tuple[str, str, str, str]]) -> None:
        """Publish what is served: model, version, digest and alias.

        Scrapes run on a thread, so what stays is there all the time.
        """
        before, self._shown_aliases = self._shown_aliases, set(aliases)
        for labels in self._shown_aliases:
            self._aliases.labels(*labels).set(1)
        for labels in before - self._shown_aliases:
            self._aliases.remove(*labels)

    def reloaded(self, model: str, outcome: str) -> None:
        """Record what a reload did with one model."""
        self._reloads.labels(model, outcome).inc()

    def shadowed(self, model: str, outcome: str) -> None:
        """Record the outcome of one image that a shadow was to compute."""
        self._shadow.labels(model, outcome).inc()

    def stepped(self, model: str, step: str) -> None:
        """Record one step of a rollout."""
        self._steps.labels(model, step).inc()

    def start_reloads(self, model: str) -> None:
        """Start a model's counters at 0."""
        for outcome in RELOAD_OUTCOMES:
            self._reloads.labels(model, outcome)
        for outcome in SHADOW_OUTCOMES:
            self._shadow.labels(model, outcome)
        for step in ROLLOUT_STEPS:
            self._steps.labels(model, step)

    def follow_queue(self, depth: Callable[[], int]) -> None:
        """Read the queue's depth at every scrape."""
        self.queue_depth.set_function(depth)

    def follow_front_ends(self, running: Callable[[], int]) -> None:
        """Read the number of front ends at every scrape."""
        self._front_ends.set_function(running)

    def shared(self) -> list[Counter | Gauge | Histogram]:
        """Return what front ends count as well, and what is added up over all of them."""
        return [
            self._requests,
            self._client_requests,
            self._duration,
            self._stages,
            self.inflight,
            self._shed_images,
            self._review_images,
            self.log_lines_dropped,
            self.audit_lines_dropped,
            self.log_lines_left_out,
            self._traced_requests,
        ]

    def render(self, *, openmetrics: bool = False) -> bytes:
        """Return the text of a scrape, in Prometheus's format or as OpenMetrics."""
        self._count_models()
        return self._exposition.render(openmetrics=openmetrics)

    async def render_in_slices(self, *, openmetrics: bool) -> bytes:
        """Return the same without keeping the event loop from answering requests."""
        self._count_models()
        return await self._exposition.render_in_slices(openmetrics=openmetrics)

    def _count_models(self) -> None:
        for model_metrics in self._shown:
            model_metrics.count()


class ModelMetrics:
    """The served model's predictions and its gate's decisions. Every class starts at 0."""

    def __init__(self, served: ServedModel) -> None:
        """Declare the series in a registry of their own; `Metrics.show_model` renders them."""
        self.registry = CollectorRegistry()
        declared = _Declared(self.registry)
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
        self._decisions = _children(declared.counter("ood_decisions"), DECISIONS, model)
        self._p_value = declared.histogram("ood_p_value").labels(*model)
        scores = declared.histogram("ood_score", served.score_bounds)
        self._scores = [scores.labels(*model, score) for score in served.scores]
        self._decided: list[tuple[str, float, tuple[float, ...]]] = []  # and not counted yet
        self._predicted: list[tuple[int, float]] = []
        self._feedback = _children(declared.counter("feedback"), ("true", "false"), model)
        self._feedback_probability = declared.counter("feedback_probability").labels(*model)
        _set_reference(declared, model, served)
        self.drift = DriftGauges(declared, model)

    def predicted(self, class_id: int, confidence: float) -> None:
        """Record the class of one image that was not rejected."""
        self._predicted.append((class_id, confidence))
        if len(self._predicted) == _CHUNK:
            self.count()

    def feedback(self, probability: float, *, correct: bool) -> None:
        """Record one reported class, and the probability of the class that was predicted."""
        self._feedback[str(correct).lower()].inc()
        self._feedback_probability.inc(probability)

    def decided(self, decision: str, p_value: float, scores: Sequence[float]) -> None:
        """Record the gate's decision on one image and the scores behind it, in their order."""
        self._decided.append((decision, p_value, tuple(scores)))
        if len(self._decided) == _CHUNK:
            self.count()

    def count(self) -> None:
        """Count what was recorded since the last time; together it takes a tenth of the time."""
        decided, self._decided = self._decided, []
        if decided:
            decisions, p_values, scores = zip(*decided, strict=True)
            for decision, images in Counted(decisions).items():
                self._decisions[decision].inc(images)
            _observe_all(self._p_value, p_values)
            for histogram, values in zip(self._scores, zip(*scores, strict=True), strict=True):
                _observe_all(histogram, values)
        predicted, self._predicted = self._predicted, []
        for class_id, confidence in predicted:
            self._predictions[class_id].inc()
            self._confidence[class_id].observe(confidence)


class DriftGauges:
    """The results of the drift monitors; a monitor without data in the bundle has no series."""

    def __init__(self, declared: _Declared, model: tuple[str, str, str]) -> None:
        self._model = model
        self._alarm = declared.gauge("drift_alarm")
        self._z = declared.gauge("drift_z")
        self._psi_excess = declared.gauge("drift_psi_excess")
        self._distance = declared.gauge("drift_embedding_distance")
        self._evidence = declared.gauge("drift_evidence_ratio")
        self._design_effect = declared.gauge("drift_design_effect_ratio")
        self._days = declared.gauge("drift_learned_days")
        self._near_duplicates = declared.counter("drift_near_duplicates").labels(*model)
        self._duplicates_counted: int | None = None  # not published yet
        self._accuracy = declared.gauge("expected_accuracy_ratio")
        self._fraction = declared.gauge("drift_label_shift_fraction")
        self._residual = declared.gauge("drift_label_shift_residual_z")

    def detector(self, monitor: str, *, alarm: bool, evidence: float) -> None:
        """Publish a detector's evidence as a multiple of its threshold."""
        self._alarm.labels(*self._model, monitor).set(alarm)
        self._evidence.labels(*self._model, monitor).set(evidence)

    def learned(self, design_effects: Mapping[str, float], days: int, near_duplicates: int) -> None:
        """Publish what the monitors have learned; design effects by monitor."""
        for monitor, effect in design_effects.items():
            self._design_effect.labels(*self._model, monitor).set(effect)
        self._days.labels(*self._model).set(days)
        # The monitors keep their number over restarts, a counter starts at 0.
        if self._duplicates_counted is not None:
            self._near_duplicates.inc(max(0, near_duplicates - self._duplicates_counted))
        self._duplicates_counted = near_duplicates

    def histogram(self, monitor: str, *, alarm: bool, z: float, psi_excess: float) -> None:
        """Publish the comparison of a histogram of recent images with its reference."""
        self._alarm.labels(*self._model, monitor).set(alarm)
        self._z.labels(*self._model, monitor).set(z)
        self._psi_excess.labels(*self._model, monitor).set(psi_excess)

    def embedding(self, *, alarm: bool, z: float, distance: float) -> None:
        """Publish the comparison of recent images' mean features with the reference."""
        self._alarm.labels(*self._model, "embedding").set(alarm)
        self._z.labels(*self._model, "embedding").set(z)
        self._distance.labels(*self._model).set(distance)

    def expected_accuracy(self, estimate: float) -> None:
        """Publish the estimated accuracy."""
        self._accuracy.labels(*self._model).set(estimate)

    def label_shift(self, fractions: Sequence[float], residual_z: float) -> None:
        """Publish the estimated shares of the true classes, [classes], and their residual."""
        for c, fraction in enumerate(fractions):
            self._fraction.labels(*self._model, c).set(fraction)
        self._residual.labels(*self._model).set(residual_z)


def _commonest(class_fraction: Sequence[float], most: int) -> set[int]:
    ranked = sorted(range(len(class_fraction)), key=lambda c: (-class_fraction[c], c))
    return set(ranked[:most])


def _set_reference(declared: _Declared, model: tuple[str, str, str], served: ServedModel) -> None:
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


M = TypeVar("M", Counter, Histogram)


def _observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """Observe values: as `observe` of each, without exemplars."""
    buckets = histogram._buckets
    places = np.searchsorted(histogram._upper_bounds, values)  # a bucket includes its upper bound
    for place, images in Counted(places.tolist()).items():
        if place < len(buckets):  # NaN is in none
            buckets[place].inc(images)
    histogram._sum.inc(sum(values))


def _children(
    metric: M, values: Sequence[str], model: tuple[str, str, str] | tuple[()] = ()
) -> dict[str, M]:
    """Return the child of each value of the last label, so that all of them start at 0."""
    return {value: metric.labels(*model, value) for value in values}


class _Declared:
    """Creates the metrics of the tables above in one registry, with one prefix."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str) -> Counter:
        text, labels = COUNTERS[name]
        return Counter(PREFIX + name, text, labels, registry=self._registry)

    def gauge(self, name: str) -> Gauge:
        text, labels = GAUGES[name]
        return Gauge(PREFIX + name, text, labels, registry=self._registry)

    def histogram(self, name: str, buckets: Sequence[float] = ()) -> Histogram:
        text, labels, fixed = HISTOGRAMS[name]
        return Histogram(
            PREFIX + name, text, labels, buckets=fixed or buckets, registry=self._registry
        )
