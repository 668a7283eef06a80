"""The learned ℓ(b) follows recent durations, does not decrease with b, and has a margin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.service.batching.latency import LatencyModel, RunningQuantile

WINDOW = 64
MARGIN = 1.12
SEEDS = {1: 0.010, 2: 0.012, 4: 0.016, 8: 0.024}
durations = st.floats(1e-4, 1.0)


def test_before_any_batch_it_predicts_the_warm_up_durations_plus_a_margin() -> None:
    latency = LatencyModel(SEEDS)

    assert [latency.predict(b) for b in SEEDS] == pytest.approx(
        [took * MARGIN for took in SEEDS.values()]
    )


@pytest.mark.parametrize(
    ("images", "bucket"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 8)]
)
def test_a_batch_is_predicted_by_its_bucket(images: int, bucket: int) -> None:
    latency = LatencyModel(SEEDS)

    assert latency.bucket(images) == bucket
    assert latency.predict(images) == latency.predict(bucket)


def test_a_single_image_on_an_idle_engine_is_learned_separately() -> None:
    latency = LatencyModel(SEEDS, single_image_s=0.006)
    assert (latency.single_image_s, latency.unloaded_s) == (0.006, 0.006)

    for _ in range(WINDOW):
        latency.observe_single_image(0.005)

    assert (latency.single_image_s, latency.unloaded_s) == (0.005, 0.005)
    assert latency.predict(1) == pytest.approx(0.010 * MARGIN)


def test_it_follows_a_slower_engine() -> None:
    latency = LatencyModel(SEEDS)

    for _ in range(WINDOW):
        latency.observe(4, 0.030)

    assert latency.predict(4) == pytest.approx(0.030 * MARGIN)


def test_it_forgets_durations_older_than_its_window() -> None:
    latency = LatencyModel(SEEDS)
    for _ in range(WINDOW):
        latency.observe(1, 5.0)

    for _ in range(WINDOW):
        latency.observe(1, 0.010)

    assert latency.predict(1) == pytest.approx(0.010 * MARGIN)


def test_a_rare_stall_does_not_change_it() -> None:
    latency = LatencyModel(SEEDS)

    for turn in range(10 * WINDOW):
        latency.observe(1, 1.0 if turn % 20 == 0 else 0.010)

    assert latency.predict(1) == pytest.approx(0.010 * MARGIN)


def test_it_covers_nine_batches_of_ten() -> None:
    rng = np.random.default_rng(0)
    latency, covered = LatencyModel({1: 0.010}), 0
    for _ in range(2000):
        took = float(0.010 * rng.lognormal(0, 0.3))
        covered += took <= latency.predict(1)
        latency.observe(1, took)

    assert covered / 2000 > 0.9


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 8), durations), max_size=100))
def test_it_does_not_decrease_with_the_size_of_the_batch(batches: list[tuple[int, float]]) -> None:
    latency = LatencyModel(SEEDS)
    for images, took in batches:
        latency.observe(images, took)

    predictions = [latency.predict(b) for b in range(1, 9)]

    assert predictions == sorted(predictions)


def test_an_idle_engine_s_latency_is_the_shortest_seen() -> None:
    latency = LatencyModel({1: 0.5, 2: 0.6})  # warmed on a machine that was busy

    latency.observe(2, 0.001)
    latency.observe(1, 0.010)
    latency.observe(1, 0.800)

    assert latency.unloaded_s == 0.010


def test_a_batch_does_not_change_the_prediction_for_a_smaller_bucket() -> None:
    latency = LatencyModel(SEEDS)
    for _ in range(WINDOW):
        latency.observe(8, 9.0)

    assert latency.predict(4) == pytest.approx(SEEDS[4] * MARGIN)


@settings(max_examples=100, deadline=None)
@given(durations, st.lists(durations, max_size=200))
def test_the_running_quantile_is_the_quantile_of_the_last_window(
    seed_s: float, observed: list[float]
) -> None:
    quantile = RunningQuantile(seed_s)
    for took in observed:
        quantile.observe(took)

    window = sorted([seed_s, *observed][-WINDOW:])
    assert quantile.value == window[int(0.9 * (len(window) - 1))]


def test_another_thread_may_predict_while_a_batch_is_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = LatencyModel({1: 0.010, 4: 0.030})
    before = model.predict(1)
    seen: list[float] = []
    value = RunningQuantile.value.fget  # type: ignore[attr-defined]  # it is a property

    def looked(quantile: RunningQuantile) -> float:
        seen.append(model.predict(1))  # as another thread may at this moment
        return float(value(quantile))

    monkeypatch.setattr(RunningQuantile, "value", property(looked))
    model.observe(1, 0.020)

    assert seen == [before, before]
