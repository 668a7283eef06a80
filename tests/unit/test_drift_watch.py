"""Alarms are logged when they begin and end, and published at every look."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from service.drift.monitor import Monitor
from service.drift_watch import DriftWatch
from service.metrics import Metrics, ModelMetrics, ServedModel
from tests.unit.drift.test_monitor import feed, reference

SERVED = ServedModel(
    name="m",
    version="1",
    info={"digest": "d"},
    class_fraction=[0.1] * 10,
    reference_samples=4000,
    alphas={"reject": 0.01},
    calibration_samples=1999,
    score_bounds=[0.0],
    max_class_series=10,
    confidence_at_most={},
)


@pytest.fixture
def monitor() -> Monitor:
    return Monitor(reference())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("0")


@pytest.fixture
def watch(monitor: Monitor, metrics: Metrics, tmp_path: Path) -> DriftWatch:
    gauges = ModelMetrics(metrics.registry, SERVED).drift
    return DriftWatch(monitor, gauges, "d1", tmp_path / "drift")


def test_an_alarm_is_logged_once_when_it_begins_and_once_when_it_ends(
    watch: DriftWatch, monitor: Monitor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    feed(monitor, 600, brightness=0.3)
    watch.look()
    watch.look()
    feed(monitor, 600)
    watch.look()

    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "drift: brightness alarms after 600 images",
        "drift: brightness is quiet again",
    ]


def test_a_look_publishes_every_monitor(
    watch: DriftWatch, monitor: Monitor, metrics: Metrics
) -> None:
    feed(monitor, 600, brightness=0.3)
    watch.look()

    text = metrics.render().decode()
    assert 'tidegate_drift_alarm{model="m",monitor="brightness",version="1"} 1.0' in text
    assert 'tidegate_drift_alarm{model="m",monitor="ood-rate",version="1"} 0.0' in text
    assert 'tidegate_drift_label_shift_fraction{class="9",model="m",version="1"}' in text


def test_a_cancelled_watch_saves_and_one_that_cannot_says_so(
    watch: DriftWatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run_and_cancel() -> None:
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(0)  # let it begin
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(run_and_cancel())
    assert (tmp_path / "drift").is_file()

    (tmp_path / "drift").unlink()
    (tmp_path / "drift").mkdir()
    asyncio.run(run_and_cancel())
    assert "was not saved" in caplog.text
