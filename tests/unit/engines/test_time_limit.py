"""A slow machine does not measure for minutes: what does not fit into the limit is left out."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakeClock, FakeEngine
from tidegate.service import startup
from tidegate.service.engines import cpu_warm_up, warm_up
from tidegate.service.engines.base import EngineInfo, TopUp
from tidegate.service.engines.config import EngineConfig, WarmEngine
from tidegate.service.engines.cpu_engines import CpuEngine
from tidegate.service.engines.cpu_warm_up import open_on_cpu
from tidegate.service.engines.time_limit import TimeLimit
from tidegate.service.engines.warm_up import measure_batch_sizes, measure_batch_sizes_once
from tidegate.service.types import Outputs, Pixels

CORES = 4


class SlowEngine(FakeEngine):
    """A fake whose batches take `image_s` per image, on the clock of the test."""

    def __init__(self, clock: FakeClock, image_s: float, slots: int = 1, threads: int = 1) -> None:
        super().__init__(slots=slots, max_batch_size=64)
        self._clock, self._image_s, self._threads = clock, image_s, threads

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("onnx-cpu", "fake 1", "cpu", "fp32", self._threads)

    def run(self, slot: int, images: Sequence[Pixels], top_up: TopUp | None = None) -> Outputs:
        self._clock.advance(self._image_s * len(images))
        return super().run(slot, images, top_up)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The clock of warm-up and of its limit."""
    clock = FakeClock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def limited(clock: FakeClock, limit_s: float) -> TimeLimit:
    return TimeLimit(limit_s, clock)


def test_a_measurement_that_would_not_end_in_time_is_not_begun(clock: FakeClock) -> None:
    limit = limited(clock, 10)
    clock.advance(4)

    assert limit.allows(5.9, "a")
    assert not limit.allows(6.0, "b")
    assert limit.unmeasured == ["b"]


def test_rounds_that_prove_too_slow_end_after_the_first(clock: FakeClock) -> None:
    limit = limited(clock, 10)

    rounds = limit.rounds(lambda: clock.advance(2), 9, "a")

    assert rounds is None
    assert clock.now == 1002.0
    assert limit.unmeasured == ["a"]


def test_rounds_in_time_are_all_measured(clock: FakeClock) -> None:
    limit = limited(clock, 10)

    assert limit.rounds(lambda: clock.advance(1), 9, "a") == [None] * 9
    assert limit.unmeasured == []


def test_batches_that_a_slow_engine_cannot_measure_in_time_are_left_out(clock: FakeClock) -> None:
    limit = limited(clock, 10)

    found = measure_batch_sizes(SlowEngine(clock, 0.2), [1, 2, 4, 8], stop_early=True, limit=limit)

    assert found == {1: pytest.approx(0.2)}
    assert limit.unmeasured == ["batches of more than 1"]
    assert clock.now < 1010


def test_with_a_largest_batch_set_only_what_fits_is_measured(clock: FakeClock) -> None:
    limit = limited(clock, 10)

    found = measure_batch_sizes(SlowEngine(clock, 0.2), [1, 2, 4, 8], stop_early=False, limit=limit)

    assert list(found) == [1, 2]
    assert limit.unmeasured == ["batches of more than 2"]
    assert clock.now < 1010


def test_one_round_of_each_size_ends_in_time_too(clock: FakeClock) -> None:
    limit = limited(clock, 10)

    found = measure_batch_sizes_once(SlowEngine(clock, 0.2), [1, 2, 4, 8, 16], limit)

    assert list(found) == [1, 2, 4]
    assert limit.unmeasured == ["batches of more than 4"]


def test_the_first_size_is_measured_even_if_the_time_is_over(clock: FakeClock) -> None:
    limit = limited(clock, 10)
    clock.advance(60)

    found = measure_batch_sizes(SlowEngine(clock, 5), [1, 2], stop_early=True, limit=limit)

    assert found == {1: pytest.approx(5)}
    assert clock.now == 1060 + 4 * 5  # one round: a first run and three timed ones


@pytest.mark.parametrize(("image_s", "is_slow"), [(0.0005, False), (0.5, True)])
def test_the_whole_warm_up_of_a_slow_machine_ends_in_time(
    image_s: float,
    is_slow: bool,
    clock: FakeClock,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_warm_up, "usable_cores", lambda: CORES)
    monkeypatch.setattr(warm_up, "time_in_turns", on_one_thread)
    config = EngineConfig("onnx-cpu", warm_up_limit_s=20)

    warm = open_on_cpu([slow(clock, image_s)], model, config, [1, 2, 4], "fp32")

    slots = "2 slots × 2 threads", "1 slots × 4 threads"
    assert bool(warm.unmeasured) is is_slow
    if is_slow:
        assert (warm.engine.slots, list(warm.latency_s)) == (CORES, [1])
        assert warm.unmeasured == (
            *slots,
            "batches of more than 1",
            "threads for a single image",
        )
    one_round_s = 2 * 4 * CORES * image_s
    assert clock.now - 1000 <= 20 + one_round_s


def test_what_was_not_measured_is_kept_with_the_choice(
    clock: FakeClock, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_up, "time_in_turns", on_one_thread)
    config = EngineConfig(
        "onnx-cpu", slots=1, threads_per_slot=1, warm_up_limit_s=5, warm_up_cache=tmp_path / "kept"
    )

    first, second = (
        open_on_cpu([slow(clock, 0.2)], model, config, [1, 2, 4], "fp32") for _ in range(2)
    )

    assert first.unmeasured == second.unmeasured == ("batches of more than 1",)
    assert len(second.engine.batches) == 4  # type: ignore[attr-defined]  # of the fake: one round


def test_the_log_names_what_was_not_measured(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()

    with caplog.at_level(logging.WARNING):
        startup._log_unmeasured(WarmEngine(engine, {1: 0.1}), 10)
        startup._log_unmeasured(WarmEngine(engine, {1: 0.1}, unmeasured=("a", "b")), 10)

    assert [record.message for record in caplog.records] == [
        "warm-up had no time to measure a, b within 10 s, so they are not used; "
        "TIDEGATE_WARM_UP_LIMIT_S is the limit"
    ]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"only its digest is read")
    return path


def slow(clock: FakeClock, image_s: float) -> CpuEngine:
    def opened(model: Path, *, slots: int = 1, threads_per_slot: int = 1, **_: Any) -> SlowEngine:
        return SlowEngine(clock, image_s, slots, threads_per_slot)

    return CpuEngine("onnx-cpu", opened, lambda: "fake 1")


def on_one_thread(
    batches: Sequence[tuple[SlowEngine, Sequence[Pixels]]],
) -> list[list[tuple[float, ...]]]:
    """Time turns as `warm_up.time_in_turns` does, but one slot after the other."""
    return [
        [
            tuple(warm_up._timed(engine, slot, images) for engine, images in batches)
            for _ in range(4)
        ]
        for slot in range(batches[0][0].slots)
    ]
