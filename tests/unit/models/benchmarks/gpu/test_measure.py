"""The GPU measurements, on fakes of CUDA, of a runtime and of the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import pytest

from tests.fake_cuda import FakeDevice
from tests.fake_program import FakeProgram
from tests.fakes import FakeClock, picture
from tidegate.models.benchmarks.gpu import measure, road
from tidegate.models.benchmarks.gpu.measure import MeasurementBudget
from tidegate.service.engines.base import EngineInfo
from tidegate.service.engines.config import WarmEngine
from tidegate.service.engines.cuda.base import Address, StreamHandle
from tidegate.service.engines.faults import Fault, fault_of
from tidegate.service.engines.gpu_engine import DeviceEngine
from tidegate.service.types import Pixels

INFO = EngineInfo("fake-gpu", "fake 1", "fake:0", "fp32", 1)
BUCKETS = (1, 2, 4)
PIXELS = [picture(index) for index in range(3)]
USUAL_S, ANEW_S = 0.001, 0.010


@dataclass(frozen=True)
class FakeTime:
    """The module `time`, of a clock that is moved."""

    perf_counter: Callable[[], float]


class ReplanningProgram(FakeProgram):
    """A runtime that plans again whenever the batch size changes."""

    def __init__(self, device: FakeDevice, clock: FakeClock) -> None:
        super().__init__(device)
        self._clock = clock

    def enqueue(
        self, batch: int, pixels: Address, outputs: Mapping[str, Address], stream: StreamHandle
    ) -> None:
        same = self.batches[-1:] == [batch]
        self._clock.advance(USUAL_S if same else ANEW_S)
        super().enqueue(batch, pixels, outputs, stream)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(measure, "time", FakeTime(clock))
    return clock


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def program(device: FakeDevice, clock: FakeClock) -> ReplanningProgram:
    return ReplanningProgram(device, clock)


def engine_of(device: FakeDevice, program: FakeProgram, slots: int = 2) -> DeviceEngine:
    return DeviceEngine(device, program, INFO, slots=slots, buckets=BUCKETS)


def test_a_runtime_that_plans_again_at_each_change_of_size_is_detected(
    device: FakeDevice, program: ReplanningProgram
) -> None:
    engine = engine_of(device, program)
    batches = [measure.batch_of(PIXELS, images) for images in (2, 4)]

    figures = measure.in_turn(engine, batches, MeasurementBudget(runs=5, warm_up=2))

    assert figures["alone_p50_ms"] == pytest.approx([1e3 * USUAL_S] * 2)
    assert figures["in_turn_p50_ms"] == pytest.approx([1e3 * ANEW_S] * 2)
    assert figures["ratio"] == pytest.approx([ANEW_S / USUAL_S] * 2)


def test_latency_ends_after_its_seconds_but_not_before_three_runs(
    device: FakeDevice, program: ReplanningProgram
) -> None:
    engine = engine_of(device, program)

    eager = partial(measure.eager, engine, PIXELS[:1])

    assert eager(MeasurementBudget(runs=50))["runs"] == 50
    assert eager(MeasurementBudget(runs=50, warm_up=0, runs_s=8.5 * USUAL_S))["runs"] == 9
    assert eager(MeasurementBudget(runs=50, runs_s=0))["runs"] == 3


def test_a_graph_is_forgotten_when_it_was_timed(
    device: FakeDevice, program: ReplanningProgram
) -> None:
    engine = engine_of(device, program)

    figures = measure.as_graph(engine, PIXELS[:2], MeasurementBudget(runs=3, warm_up=1))

    assert set(figures) == {"graph_p50_ms", "graph_p99_ms"}
    assert any(call.startswith("launch") for call in device.calls)
    assert not engine.captured


def test_the_memory_is_watched_in_blocks_of_one_size(
    device: FakeDevice, program: ReplanningProgram
) -> None:
    engine = engine_of(device, program)

    figures = measure.plateau(engine, device, PIXELS, 300, 60.0)

    blocks = [(size, len(list(run))) for size, run in groupby(program.batches)]
    assert blocks == [(1, 10), (2, 10), (4, 10), (1, 90), (2, 90), (4, 90)]
    assert figures["batches"] == 300
    assert figures["early_bytes"] == figures["late_bytes"]


def test_the_memory_run_respects_its_time_limit_and_returns_its_batches(
    device: FakeDevice, clock: FakeClock, program: ReplanningProgram
) -> None:
    engine, before = engine_of(device, program), clock.now

    figures = measure.plateau(engine, device, PIXELS, 10**6, 1.0)

    assert clock.now - before <= 1.0 + len(BUCKETS) * 2 * ANEW_S
    assert figures["batches"] == len(program.batches) < 1001


def test_the_road_ends_if_the_device_is_lost(device: FakeDevice) -> None:
    device.use()
    engine = engine_of(device, FakeProgram(device, losing={7}))
    warm = WarmEngine(engine, dict.fromkeys(BUCKETS, 0.001))
    work = [partial(picture, identity) for identity in (1, 2, 7)]

    with pytest.raises(RuntimeError, match="lost its device") as caught:
        road.drive(warm, work, seconds=3600, clients=20, decode_threads=1)

    assert fault_of(caught.value) is Fault.LOST


def test_the_road_raises_the_error_of_an_undecodable_image(device: FakeDevice) -> None:
    def broken() -> Pixels:
        raise ValueError("no JPEG")

    engine = engine_of(device, FakeProgram(device))
    warm = WarmEngine(engine, dict.fromkeys(BUCKETS, 0.001))
    work: list[Callable[[], Pixels]] = [partial(picture, 1), broken]  # a client each

    with pytest.raises(ValueError, match="no JPEG"):
        road.drive(warm, work, seconds=3600, clients=2, decode_threads=1)
