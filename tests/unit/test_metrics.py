"""The reference confidences have the same `le` labels as the histogram, so that rules match."""

from collections.abc import Callable

import numpy as np
import pytest

from tidegate.models.fitting.drift_reference import reference_fit
from tidegate.service.bundle.manifest import Histogram
from tidegate.service.bundle_reference import shares_at_most
from tidegate.service.drift.reference import INPUTS
from tidegate.service.metrics import (
    CONFIDENCE_BUCKETS,
    MODEL_INFO,
    Metrics,
    ModelMetrics,
    ServedModel,
)


def _les(confidence_at_most: dict[float, float], metric: str) -> dict[str, float]:
    served = ServedModel(
        name="m",
        version="1",
        digest="d",
        info=dict.fromkeys(MODEL_INFO, "x"),
        labels=["a"],
        class_fraction=[1.0],
        reference_samples=1,
        alphas={},
        calibration_samples=1,
        scores=("energy", "mahalanobis"),
        score_bounds=[0.0],
        max_class_series=1,
        confidence_at_most=confidence_at_most,
    )
    model = ModelMetrics(served)
    samples = [sample for family in model.registry.collect() for sample in family.samples]
    return {s.labels["le"]: s.value for s in samples if s.name == f"tidegate_{metric}"}


def test_the_reference_is_published_at_bounds_that_the_histogram_has() -> None:
    reference = _les({0.1: 0.25, 0.9: 0.75, 0.123: 0.5}, "reference_confidence_ratio")

    assert reference == {"0.1": 0.25, "0.9": 0.75}
    assert reference.keys() <= _les({}, "prediction_confidence_bucket").keys()


def test_a_bundle_without_confidences_has_no_series() -> None:
    assert shares_at_most(None) == {}
    assert _les({}, "reference_confidence_ratio") == {}


def test_a_histogram_is_read_as_the_share_below_each_edge() -> None:
    shares = shares_at_most(Histogram(edges=(0.5, 0.9), counts=(1, 2, 1)))

    assert shares == {0.5: 0.25, 0.9: 0.75}


def test_the_bundles_histogram_edges_are_bucket_bounds() -> None:
    confidence = np.array([0.05, 0.55, 0.95])
    fit = reference_fit(np.zeros(3, np.int64), 1, {}, np.zeros((3, len(INPUTS))), confidence)

    assert fit.histograms["confidence"].edges
    assert set(fit.histograms["confidence"].edges) <= set(CONFIDENCE_BUCKETS)


def test_the_series_of_two_versions_are_merged_and_those_of_a_hidden_one_are_gone() -> None:
    metrics = Metrics("0")
    models = [
        ModelMetrics(
            ServedModel(
                name="m",
                version=version,
                digest=version * 3,
                info=dict.fromkeys(MODEL_INFO, "x"),
                labels=["a"],
                class_fraction=[1.0],
                reference_samples=1,
                alphas={},
                calibration_samples=1,
                scores=("energy",),
                score_bounds=[bound],
                max_class_series=1,
                confidence_at_most={},
            )
        )
        for version, bound in (("1", 0.5), ("2", 7.0))
    ]
    for model in models:
        metrics.show_model(model)
        model.decided("accept", 0.5, (1.0,))
    both = metrics.render().decode()
    assert both.count("# TYPE tidegate_ood_score histogram") == 1
    assert 'digest="111",le="0.5"' in both
    assert 'digest="222",le="7.0"' in both

    metrics.hide_model(models[0])

    assert 'digest="111"' not in metrics.render().decode()
    assert 'digest="222",le="7.0"' in metrics.render().decode()


def test_an_alias_that_stays_is_there_while_others_change(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics("0")
    names = ("model", "version", "digest", "alias")
    stays, goes, comes = [("m", v, "d", f"alias-{v}") for v in "123"]

    def shown(labels: tuple[str, ...]) -> float | None:
        return metrics.registry.get_sample_value(
            "tidegate_model_alias", dict(zip(names, labels, strict=True))
        )

    metrics.set_aliases([stays, goes])
    for method in ("clear", "remove", "labels"):
        change = getattr(metrics._aliases, method)

        def checked(*labels: str, change: Callable[..., object] = change) -> object:
            result = change(*labels)
            assert shown(stays) == 1.0
            return result

        monkeypatch.setattr(metrics._aliases, method, checked)
    metrics.set_aliases([stays, comes])

    assert (shown(goes), shown(comes)) == (None, 1.0)
