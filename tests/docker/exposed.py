"""Every sample that one replica can expose, for the tests of rules and dashboards."""

import functools

from prometheus_client.samples import Sample

from tests.fakes import FakeNvml
from tidegate.service.drift.reference import INPUTS
from tidegate.service.metrics import Metrics, ModelMetrics, ServedModel
from tidegate.service.metrics.tables import MODEL_INFO
from tidegate.service.nvml import GpuCollector


def exposed(classes: int, max_class_series: int) -> list[Sample]:
    """Return every sample of one replica."""
    metrics = Metrics("0")
    metrics.request("/classify", 200, 0.1)  # its labels appear with the first request
    metrics.set_clients(frozenset({"client"}))
    metrics.client_request("client", 200)
    metrics.refused_configuration("keys", False)
    alphas = {"reject": 0.005, "review": 0.05}
    served = ServedModel(
        name="m",
        version="1",
        digest="d" * 12,
        info=dict.fromkeys(MODEL_INFO, "x"),
        labels=["a label of a class"] * classes,
        class_fraction=[1 / classes] * classes,
        reference_samples=1,
        alphas=alphas,
        calibration_samples=1,
        scores=("energy", "mahalanobis"),
        score_bounds=list(range(18)),
        max_class_series=max_class_series,
        confidence_at_most={0.1 * tenth: 0.0 for tenth in range(1, 10)},
    )
    model = ModelMetrics(served)
    metrics.show_model(model)
    metrics.start_reloads("m")
    metrics.set_aliases([("m", "1", "d", "stable")])
    gauges = model.drift
    for detector in ("ood-rate", "class-mix", "rejected-share", "class-share"):
        gauges.detector(detector, alarm=False, evidence=0)
    gauges.learned({"ood-rate": 1, "class-mix": 1}, 0, 0)
    for histogram in ("p-value", "confidence", *INPUTS):
        gauges.histogram(histogram, alarm=False, z=0, psi_excess=0)
    gauges.embedding(alarm=False, z=0, distance=0)
    gauges.expected_accuracy(1)
    gauges.label_shift([1 / classes] * min(classes, 50), 0)  # no bundle contains more confusions
    metrics.registry.register(GpuCollector(FakeNvml(gpus=1)))
    return [sample for family in metrics.registry.collect() for sample in family.samples]


@functools.cache
def published() -> dict[str, set[str]]:
    """Return every sample name that the service can expose, with its label names."""
    return {sample.name: set(sample.labels) for sample in exposed(1, 1)}
