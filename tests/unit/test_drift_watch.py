"""Alarms are logged when they start and when they are cleared, and published in every round."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.drift.test_monitor import feed, reference
from tidegate.service import drift_watch
from tidegate.service.drift import state
from tidegate.service.drift.monitor import Monitor
from tidegate.service.drift.report import Report
from tidegate.service.drift_watch import DriftWatch
from tidegate.service.metrics import Metrics, ModelMetrics, ServedModel
from tidegate.service.metrics.tables import MODEL_INFO

SERVED = ServedModel(
    name="m",
    version="1",
    digest="d",
    info=dict.fromkeys(MODEL_INFO, "d"),
    labels=[""] * 10,
    class_fraction=[0.1] * 10,
    reference_samples=4000,
    alphas={"reject": 0.01},
    calibration_samples=1999,
    scores=("energy", "mahalanobis"),
    score_bounds=[0.0],
    max_class_series=10,
    confidence_at_most={},
)


LABELS = [f"class {c}" for c in range(10)]


@pytest.fixture
def monitor() -> Monitor:
    return Monitor(reference())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("0")


@pytest.fixture
def watch(monitor: Monitor, metrics: Metrics, tmp_path: Path) -> DriftWatch:
    model = ModelMetrics(SERVED)
    metrics.show_model(model)
    return DriftWatch(monitor, model.drift, LABELS, "d1", tmp_path / "drift")


def test_an_alarm_is_logged_once_when_it_starts_and_once_when_it_is_cleared(
    watch: DriftWatch, monitor: Monitor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    feed(monitor, 600, brightness=0.3)
    watch.publish()
    watch.publish()
    feed(monitor, 600)
    watch.publish()

    messages = [record.getMessage() for record in caplog.records]
    assert [message.split(" differs")[0] for message in messages] == [
        "drift: brightness alarm: The distribution of brightness over the last 500 images",
        "drift: brightness alarm cleared",
    ]


def test_publish_exposes_every_monitor(
    watch: DriftWatch, monitor: Monitor, metrics: Metrics
) -> None:
    feed(monitor, 600, brightness=0.3)
    watch.publish()

    text = metrics.render().decode()
    assert 'tidegate_drift_alarm{digest="d",model="m",monitor="brightness",version="1"} 1.0' in text
    assert 'tidegate_drift_alarm{digest="d",model="m",monitor="ood-rate",version="1"} 0.0' in text
    assert 'tidegate_drift_label_shift_fraction{class="9",digest="d",model="m",version="1"}' in text


def test_a_cancelled_watch_saves_its_state_or_logs_that_it_could_not(
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


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_watch, "_PUBLISH_EVERY_S", 0.0001)
    monkeypatch.setattr(drift_watch, "_LONGEST_PAUSE_S", 0.001)
    monkeypatch.setattr(drift_watch, "_SAVE_EVERY", 1)


async def until(condition: Callable[[], bool], task: asyncio.Task[None]) -> None:
    """Let the watch run until the condition holds; fails if it ends."""
    async with asyncio.timeout(60):
        while not condition():
            assert not task.done()
            await asyncio.wait({task}, timeout=0.001)


@pytest.mark.usefixtures("in_a_hurry")
def test_a_monitor_that_raises_is_retried_and_the_watch_reports_the_reason_meanwhile(
    watch: DriftWatch, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Report:
        raise ZeroDivisionError("a bug")

    async def scenario() -> None:
        task = asyncio.create_task(watch.run())
        with monkeypatch.context() as patch:
            patch.setattr(monitor, "report", broken)
            await until(lambda: "ZeroDivisionError: a bug" in watch.failure, task)
        await until(lambda: not watch.failure, task)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(scenario())


@pytest.mark.usefixtures("in_a_hurry")
def test_a_full_disk_is_logged_once_and_again_when_saving_works(
    watch: DriftWatch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tries, save = [], state.save

    def full(*arguments: Any) -> None:
        tries.append(arguments)
        if len(tries) < 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments)

    monkeypatch.setattr(state, "save", full)

    async def scenario() -> None:
        task = asyncio.create_task(watch.run())
        await until(lambda: len(tries) > 8, task)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(scenario())

    messages = [record.getMessage() for record in caplog.records]
    assert [line.split(" to ")[0] for line in messages] == [
        "drift state was not saved",
        "drift state is saved",
    ]


@pytest.mark.parametrize("content", [b"damaged", b"", b"PK\x03\x04"])
def test_a_damaged_state_is_renamed_and_logged(
    watch: DriftWatch, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "drift").write_bytes(content)

    watch.restore()

    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("drift.damaged-")
    assert kept.read_bytes() == content
    assert f"renamed to {kept.name}" in caplog.text


def test_the_state_of_another_bundle_is_renamed(
    watch: DriftWatch, monitor: Monitor, tmp_path: Path
) -> None:
    state.save(tmp_path / "drift", monitor.state(), "another")

    watch.restore()

    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("drift.other-bundle-")
