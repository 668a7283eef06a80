"""The reference confidences have the same `le` labels as the histogram, so that rules match."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from prometheus_client import Histogram as Histogrammed

from tidegate.models.fitting.drift_reference import reference_fit
from tidegate.service.bundle.manifest import Histogram
from tidegate.service.bundle_reference import shares_at_most
from tidegate.service.drift.reference import INPUTS
from tidegate.service.metrics import Metrics, ModelMetrics, ServedModel
from tidegate.service.metrics.tables import CONFIDENCE_BUCKETS, MODEL_INFO
from tidegate.service.metrics.together import CountedTogether


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


@pytest.mark.parametrize("images", [1, 63, 64, 200])
def test_what_is_counted_in_chunks_is_all_there_at_a_scrape(images: int) -> None:
    rng = np.random.default_rng(images)
    p_values = [*rng.random(images - 1).tolist(), 0.05]  # the last one is a bucket's upper bound
    scores = [*rng.normal(size=images - 1).tolist(), math.nan]  # which is in no bucket
    metrics, model = Metrics("0"), ModelMetrics(_two_classes())
    metrics.show_model(model)
    for place, (p_value, score) in enumerate(zip(p_values, scores, strict=True)):
        model.decided("accept", p_value, (score,))
        model.predicted(place % 2, p_value)

    metrics.render()

    def value(name: str, **labels: str) -> float | None:
        model_labels = {"model": "m", "version": "1", "digest": "d"}
        return model.registry.get_sample_value(f"tidegate_{name}", model_labels | labels)

    assert value("ood_decisions_total", decision="accept") == images
    assert value("ood_p_value_count") == images
    assert value("ood_p_value_bucket", le="0.05") == sum(p <= 0.05 for p in p_values)
    assert value("ood_p_value_sum") == pytest.approx(sum(p_values))
    assert value("ood_score_bucket", score="energy", le="0.5") == sum(s <= 0.5 for s in scores)
    assert value("ood_score_count", score="energy") == images - 1
    assert value("predictions_total", **{"class": "1"}) == images // 2
    assert value("prediction_confidence_count", **{"class": "0"}) == images - images // 2


def _two_classes() -> ServedModel:
    return ServedModel(
        name="m",
        version="1",
        digest="d",
        info=dict.fromkeys(MODEL_INFO, "x"),
        labels=["a", "b"],
        class_fraction=[0.5, 0.5],
        reference_samples=1,
        alphas={},
        calibration_samples=1,
        scores=("energy",),
        score_bounds=[0.5],
        max_class_series=2,
        confidence_at_most={},
    )


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


def test_what_is_counted_together_is_what_would_be_counted_one_by_one() -> None:
    rng = np.random.default_rng(0)
    bounds = (0.1, 0.5, 1.0)
    values = [*rng.random(150).tolist(), *bounds, 7.0, math.nan]
    alone, together = (
        Histogrammed(name, "-", buckets=bounds, registry=None) for name in ("alone", "together")
    )
    counted = CountedTogether(together)

    for value in values:
        alone.observe(value)
        counted.observe(value)
    counted.count()

    def read(histogram: Histogrammed) -> list[float]:
        return [bucket.get() for bucket in histogram._buckets]

    assert read(together) == read(alone)
    assert math.isnan(together._sum.get())


def test_requests_are_counted_before_they_are_shown() -> None:
    metrics = Metrics("0")
    metrics.request("/classify", 200, 0.01)
    metrics.request("/classify", 200, 0.01, "0" * 32)
    metrics.stages["engine"].observe(0.01)

    shown = metrics.render(openmetrics=True).decode()

    route = '{route="/classify"}'
    assert f"tidegate_request_duration_seconds_count{route} 2.0" in shown
    assert f'trace_id="{"0" * 32}"' in shown
    assert 'tidegate_stage_duration_seconds_count{stage="engine"} 1.0' in shown
