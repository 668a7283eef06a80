"""GPU metrics, with a fake of NVML."""

import logging
import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.fakes import FakeNvml
from tidegate.service.nvml import GpuCollector, watch_gpus


def scraped(nvml: FakeNvml) -> list[str]:
    registry = CollectorRegistry()
    registry.register(GpuCollector(nvml))
    return [line for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]


def test_every_gpu_has_its_numbers_in_base_units() -> None:
    registry = CollectorRegistry()
    registry.register(GpuCollector(FakeNvml(gpus=2)))

    for metric, value in (
        ("memory_used_bytes", 2e9),
        ("memory_total_bytes", 80e9),
        ("utilization_ratio", 0.4),
        ("clock_hertz", 1.98e9),
        ("temperature_celsius", 55),
    ):
        assert registry.get_sample_value(f"tidegate_gpu_{metric}", {"gpu": "1"}) == value


def test_a_lost_gpu_has_no_series_and_the_scrape_succeeds() -> None:
    nvml = FakeNvml(gpus=2)
    nvml.lost.add(0)

    assert all('gpu="1"' in line for line in scraped(nvml))
    assert len(scraped(nvml)) == 5


def test_the_scrape_succeeds_without_the_driver() -> None:
    nvml = FakeNvml(gpus=1)
    nvml.driver = False

    assert scraped(nvml) == []


def test_without_the_package_the_log_has_the_install_command(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)

    with caplog.at_level(logging.WARNING):
        assert not watch_gpus(CollectorRegistry())

    assert "tidegate[gpu]" in caplog.text


def test_without_a_driver_a_warning_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpus=0, driver=False))

    with caplog.at_level(logging.WARNING):
        assert not watch_gpus(CollectorRegistry())

    assert "no GPU metrics: NVML Shared Library Not Found" in caplog.text


def test_with_a_driver_the_metrics_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpus=1))
    registry = CollectorRegistry()

    assert watch_gpus(registry)

    assert registry.get_sample_value("tidegate_gpu_utilization_ratio", {"gpu": "0"}) == 0.4
