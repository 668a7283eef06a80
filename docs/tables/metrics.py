"""The metrics, and the values of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from docs.tables.markdown import table
from tidegate.service import metrics, nvml
from tidegate.service.metrics import tables

LABELS = {
    "route": tables.ROUTES,
    "stage": tables.STAGES,
    "reason": tables.SHED_REASONS,
    "decision": tables.DECISIONS,
    "score": ("energy", "mahalanobis", "others that decide"),
    "part": tables.BATCH_PARTS,
    "outcome": tables.REVIEW_OUTCOMES,
}


def metric_names() -> str:
    """Return a row for each metric: name, kind, labels, meaning."""
    rows = [
        (f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), text)
        for name, kind, labels, text in _metrics()
    ]
    return table(("metric", "type", "labels", "meaning"), rows)


def label_values() -> str:
    """Return a row for each label with a closed set of values."""
    rows = [
        (f"`{name}`", ", ".join(f"`{value}`" for value in values))
        for name, values in LABELS.items()
    ]
    return table(("label", "values"), rows)


def _metrics() -> list[tuple[str, str, Sequence[str], str]]:
    service = metrics.Metrics("0")
    model = metrics.ModelMetrics(_a_model())
    found = []
    for registry in (service.registry, model.registry):
        for collector in registry._collector_to_names:
            labels = getattr(collector, "_labelnames", ())
            for family in collector.collect():
                if family.name.startswith("tidegate_"):
                    name = f"{family.name}_total" if family.type == "counter" else family.name
                    found.append((name, family.type, labels, family.documentation))
    gpus = nvml.GpuCollector(_no_gpus())  # type: ignore[arg-type]  # stands in for a module
    found += [(f.name, f.type, ("gpu",), f.documentation) for f in gpus.collect()]
    return found


def _a_model() -> metrics.ServedModel:
    return metrics.ServedModel(
        name="name",
        version="1",
        digest="",
        info=dict.fromkeys(tables.MODEL_INFO, ""),
        labels=[""],
        class_fraction=[1.0],
        reference_samples=1,
        alphas={"reject": 0.01, "review": 0.05},
        calibration_samples=1,
        scores=(),
        score_bounds=[0.0],
        max_class_series=1,
        confidence_at_most={},
    )


def _no_gpus() -> SimpleNamespace:
    return SimpleNamespace(nvmlDeviceGetCount=lambda: 0, NVMLError=Exception)
