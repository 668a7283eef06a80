"""Warm-up measures batch sizes, and ends where the device's memory ends."""

from __future__ import annotations

import logging

import pytest

from tests.fakes import FakeEngine
from tidegate.service.engines import warm_up
from tidegate.service.engines.faults import CudaError, OutOfDeviceMemory
from tidegate.service.engines.warm_up import measure_batch_sizes


@pytest.fixture(autouse=True)
def in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the measurements; every size is worth it."""
    monkeypatch.setattr(warm_up, "_TRIAL_S", 0.0001)
    monkeypatch.setattr(warm_up, "WORTH_IT", 0.0)


@pytest.mark.parametrize("stop_early", [True, False])
def test_a_size_that_does_not_fit_ends_the_measurement_with_a_warning(
    stop_early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine(largest_batch=2)

    with caplog.at_level(logging.WARNING):
        latency_s = measure_batch_sizes(engine, (1, 2, 4, 8), stop_early=stop_early)

    assert list(latency_s) == [1, 2]
    assert "device memory low: using batches of at most 2: no memory for 4" in caplog.text
    assert all(len(batch) <= 4 for batch in engine.batches)


def test_a_device_without_memory_for_the_first_size_is_an_error() -> None:
    with pytest.raises(OutOfDeviceMemory):
        measure_batch_sizes(FakeEngine(largest_batch=0), (1, 2), stop_early=True)


def test_other_errors_end_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEngine, "_fail_as_devices_do", _lose_at_four)

    with pytest.raises(CudaError):
        measure_batch_sizes(FakeEngine(), (1, 2, 4), stop_early=False)


def _lose_at_four(engine: FakeEngine, identities: list[int]) -> None:
    if len(identities) == 4:
        raise CudaError("cudaEventSynchronize", 700, "an illegal memory access")
