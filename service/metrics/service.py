"""The metrics of the service, and the scrape with those of every loaded version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

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

from tidegate.service.metrics.declared import Declared, children
from tidegate.service.metrics.exposition import Exposition, ModelRegistries
from tidegate.service.metrics.model import ModelMetrics
from tidegate.service.metrics.tables import (
    BATCH_PARTS,
    CLASSIFY_ROUTES,
    RELOAD_OUTCOMES,
    REVIEW_OUTCOMES,
    ROLLOUT_STEPS,
    ROUTES,
    SHADOW_OUTCOMES,
    SHED_REASONS,
    STAGES,
    TRACE_OUTCOMES,
)
from tidegate.service.metrics.together import CountedTogether


class Metrics:
    """The metrics of the service, and of every loaded version of a model."""

    def __init__(self, version: str) -> None:
        self.registry = _with_the_process()
        declared = Declared(self.registry)
        self._requests = declared.counter("requests")
        self._client_requests = declared.counter("client_requests")
        self._clients: frozenset[str] = frozenset()
        self._configuration_refused = declared.gauge("configuration_refused")
        self._duration = declared.histogram("request_duration_seconds")
        self._durations: dict[str, CountedTogether] = {}  # by route
        self._answered: dict[tuple[str, int], Counter] = {}  # by route and status
        self.serve_routes(ROUTES, CLASSIFY_ROUTES)
        self._stages = declared.histogram("stage_duration_seconds")
        stages = children(self._stages, STAGES)
        self.stages = {name: CountedTogether(stage) for name, stage in stages.items()}
        self.batch_size = declared.histogram("batch_size")
        self._parts = children(declared.histogram("batch_duration_seconds"), BATCH_PARTS)
        self.queue_depth = declared.gauge("queue_depth")
        self.inflight = declared.gauge("inflight_requests")
        self._front_ends = declared.gauge("front_ends")
        self.front_ends_replaced = declared.counter("front_ends_replaced")
        self._shed_images = declared.counter("shed")
        self._shed = children(self._shed_images, SHED_REASONS)
        self.slot_busy = declared.counter("slot_busy_seconds")
        self._review_images = declared.counter("review_images")
        self._review = children(self._review_images, REVIEW_OUTCOMES)
        self.log_lines_dropped = declared.counter("log_lines_dropped")
        self.audit_lines_dropped = declared.counter("audit_lines_dropped")
        self.log_lines_left_out = declared.counter("log_lines_left_out")
        self._traced_requests = declared.counter("traces")
        self._traces = children(self._traced_requests, TRACE_OUTCOMES)
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
        for route, duration in children(self._duration, routes).items():
            self._durations.setdefault(route, CountedTogether(duration))
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
        answered = self._answered.get((route, status))
        if answered is None:
            answered = self._answered[route, status] = self._requests.labels(route, status)
        answered.inc()
        if trace_id is None:
            self._durations[route].observe(duration_s)
        else:
            self._durations[route].observe_with(duration_s, {"trace_id": trace_id})

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
        self._shown = [shown for shown in self._shown if shown is not model_metrics]

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
        self.count()
        return self._exposition.render(openmetrics=openmetrics)

    async def render_in_slices(self, *, openmetrics: bool) -> bytes:
        """Return the same without keeping the event loop from answering requests."""
        self.count()
        return await self._exposition.render_in_slices(openmetrics=openmetrics)

    def count(self) -> None:
        """Count what was observed since the last time, before it is read."""
        for histogram in (*self.stages.values(), *self._durations.values()):
            histogram.count()
        for model_metrics in self._shown:
            model_metrics.count()


def _with_the_process() -> CollectorRegistry:
    """Return a registry with the metrics of this process."""
    # A creation time per class would double the series.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client has no types
    registry = CollectorRegistry()
    for collect in (ProcessCollector, PlatformCollector, GCCollector):
        collect(registry=registry)
    return registry
