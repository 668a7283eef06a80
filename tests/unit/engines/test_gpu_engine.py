"""Slots on a GPU: the order of calls and the handling of faults, on a fake of CUDA."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fake_cuda import FakeDevice
from tests.fake_program import FakeProgram
from tests.fakes import identity_in, picture
from tidegate.service.engines.base import EngineInfo
from tidegate.service.engines.cuda.base import Address, Device
from tidegate.service.engines.faults import CudaError, Fault, OutOfDeviceMemory, fault_of
from tidegate.service.engines.gpu_engine import DeviceEngine
from tidegate.service.engines.warm_up import choose_graphs
from tidegate.service.errors import EngineUnavailable
from tidegate.service.types import Pixels

INFO = EngineInfo("fake-gpu", "fake 1", "fake:0", "fp32", 1)
BUCKETS = (1, 2, 4, 8)
PATIENCE_S = 150.0


def engine_on(
    device: FakeDevice, program: FakeProgram | None = None, slots: int = 2
) -> DeviceEngine:
    return DeviceEngine(device, program or FakeProgram(device), INFO, slots=slots, buckets=BUCKETS)


def pictures(*identities: int) -> list[Pixels]:
    return [picture(identity) for identity in identities]


def answered(engine: DeviceEngine, identities: Sequence[int], slot: int = 0) -> list[int]:
    outputs = engine.run(slot, pictures(*identities))
    return [identity_in(outputs.rows(row, row + 1)) for row in range(len(identities))]


def steps(device: FakeDevice) -> list[str]:
    """Return the calls since the engine was created, without their streams."""
    calls = [call.split("@")[0] for call in device.calls]
    return calls[len(calls) - calls[::-1].index("event") :] if "event" in calls else calls


def test_a_batch_is_copied_in_computed_and_copied_out_before_the_wait() -> None:
    device = FakeDevice()
    engine = engine_on(device)

    assert answered(engine, [7, 8, 9]) == [7, 8, 9]

    assert steps(device) == [
        "record",
        "copy_in",
        "record",
        "record",
        "compute",
        "record",
        "copy_out",
        "record",
        "wait",
        "elapsed",
        "elapsed",
        "elapsed",
    ]


def test_every_slot_has_its_own_stream() -> None:
    device = FakeDevice()
    engine = engine_on(device)

    answered(engine, [1], slot=0)
    answered(engine, [2], slot=1)

    assert {call for call in device.calls if call.startswith("compute")} == {
        "compute@1",
        "compute@2",
    }


@pytest.mark.parametrize(("images", "bucket"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_a_batch_is_padded_to_a_warmed_up_size(images: int, bucket: int) -> None:
    device = FakeDevice()
    program = FakeProgram(device)
    engine = engine_on(device, program)

    assert answered(engine, range(images)) == list(range(images))
    assert program.batches == [bucket]


def test_the_phases_of_a_run_are_timed_by_the_device() -> None:
    engine = engine_on(FakeDevice())
    assert engine.parts_s(0) == {}

    engine.run(0, pictures(1, 2), lambda room: pictures(3))

    # The fake's clock ticks once per event; a batch that was topped up was copied in twice.
    parts = engine.parts_s(0)
    assert parts == pytest.approx({"copy_in": 0.002, "compute": 0.001, "copy_out": 0.001})


def test_a_batch_is_topped_up_while_the_device_is_busy() -> None:
    """Two of three slots may compute; the third copies its images in, and is topped up last."""
    device = FakeDevice()
    program = FakeProgram(device)
    engine = engine_on(device, program, slots=3)
    busy, go_on = threading.Barrier(3, timeout=PATIENCE_S), threading.Event()
    asked = threading.Event()

    def hold() -> None:
        if threading.current_thread().name.startswith("first"):
            busy.wait()
            assert go_on.wait(PATIENCE_S)

    def more(room: int) -> list[Pixels]:
        asked.set()
        return pictures(5, 6)

    program.on_enqueue = hold
    with (
        ThreadPoolExecutor(2, "first") as first,
        ThreadPoolExecutor(1, "later") as later,
    ):
        holding = [first.submit(answered, engine, [slot], slot) for slot in (0, 1)]
        busy.wait()
        growing = later.submit(engine.run, 2, pictures(4), more)
        device.wait_for("copy_in@3")  # the copy does not wait for a turn
        assert not asked.is_set()
        assert not growing.done()
        go_on.set()
        outputs = growing.result(PATIENCE_S)
        assert [answer.result(PATIENCE_S) for answer in holding] == [[0], [1]]

    assert asked.is_set()
    assert [identity_in(outputs.rows(row, row + 1)) for row in range(3)] == [4, 5, 6]
    assert sorted(program.batches) == [1, 1, 4]


def test_a_full_batch_is_not_topped_up() -> None:
    engine = engine_on(FakeDevice())

    def more(room: int) -> list[Pixels]:
        raise AssertionError("a full batch has no room")

    assert len(engine.run(0, pictures(*range(8)), more).scores) == 8


def test_concurrent_slots_do_not_mix_their_answers() -> None:
    engine = engine_on(FakeDevice(), slots=3)

    def work(slot: int) -> bool:
        return all(
            answered(engine, [1000 * slot + turn, turn], slot) == [1000 * slot + turn, turn]
            for turn in range(200)
        )

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(work, range(3)))


def test_a_captured_bucket_runs_as_a_graph_and_gives_the_same() -> None:
    device = FakeDevice()
    engine = engine_on(device)
    engine.capture(4)
    before = steps(device).count("launch")

    assert answered(engine, [1, 2, 3]) == [1, 2, 3]
    assert answered(engine, [4, 5, 6, 7], slot=1) == [4, 5, 6, 7]
    assert steps(device).count("launch") == before + 2
    assert answered(engine, [8]) == [8]
    engine.release(4)
    assert answered(engine, [9, 9, 9]) == [9, 9, 9]
    assert steps(device).count("launch") == before + 2


def test_too_little_memory_gives_fewer_slots_and_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = FakeDevice()
    with caplog.at_level(logging.WARNING):
        engine = engine_on(device, FakeProgram(device, executions=2), slots=4)

    assert engine.slots == 2
    assert "using 2 of 4 slots" in caplog.text
    assert answered(engine, [3], slot=1) == [3]


def test_free_memory_is_checked_before_an_execution_is_created() -> None:
    device = FakeDevice(memory=1000)

    with pytest.raises(
        EngineUnavailable, match=r"too little memory for one slot.*TIDEGATE_MAX_BATCH_SIZE"
    ):
        engine_on(device, FakeProgram(device, execution_bytes=1001))


def test_buffers_that_do_not_fit_give_fewer_slots() -> None:
    with pytest.raises(EngineUnavailable, match="cudaMalloc"):
        engine_on(FakeDevice(memory=64))


def test_other_errors_are_not_treated_as_lack_of_memory() -> None:
    device = FakeDevice()
    program = FakeProgram(device)

    def broken(device: Device, workspace: Address) -> Any:
        raise ValueError("another thing")

    program.execution = broken  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="another thing"):
        engine_on(device, program)


def test_a_failed_batch_does_not_affect_the_next() -> None:
    device = FakeDevice()
    engine = engine_on(device, FakeProgram(device, largest_batch=4))

    with pytest.raises(OutOfDeviceMemory):
        engine.run(0, pictures(*range(8)))
    with pytest.raises(ValueError, match="broadcast"):
        engine.run(0, [Pixels(picture(1)[:-1])])

    assert answered(engine, [5, 6]) == [5, 6]


def test_a_lost_device_is_reported_instead_of_the_first_error() -> None:
    device = FakeDevice()
    engine = engine_on(device, FakeProgram(device, largest_batch=4))
    device.lost = True

    with pytest.raises(CudaError) as caught:
        engine.run(0, pictures(*range(8)))

    assert fault_of(caught.value) is Fault.LOST
    assert isinstance(caught.value.__cause__, OutOfDeviceMemory)


def test_a_failed_batch_releases_its_turn() -> None:
    device = FakeDevice()
    engine = engine_on(device, FakeProgram(device, largest_batch=4), slots=1)

    for _ in range(3):
        with pytest.raises(OutOfDeviceMemory):
            engine.run(0, pictures(*range(8)))

    assert answered(engine, [5]) == [5]


def test_closing_frees_the_device() -> None:
    device = FakeDevice()
    engine = engine_on(device)

    engine.close()

    assert device.closed


def test_a_graph_is_captured_once_after_a_run_of_its_size_and_kept() -> None:
    device = FakeDevice()
    engine = engine_on(device)

    for _ in range(3):
        engine.capture(4)
        engine.release(4)
    engine.capture(4)

    calls = steps(device)
    assert calls.count("capture") == engine.slots
    # Twice per slot: the run before the capture, and the capture.
    assert calls.count("compute") == 2 * engine.slots
    assert calls.index("synchronize") < calls.index("capture")


def test_a_graph_has_its_own_execution_and_frees_it_when_dropped() -> None:
    device = FakeDevice()
    program = FakeProgram(device, executions=6)  # per slot one, and one for its graph
    engine = engine_on(device, program, slots=3)
    engine.capture(4)

    with pytest.raises(OutOfDeviceMemory, match="no more executions"):
        engine.capture(2)
    assert engine.captured == {4}

    engine.forget(4)
    assert engine.captured == frozenset()
    assert steps(device).count("discard") == engine.slots
    assert answered(engine, [7, 8, 9]) == [7, 8, 9]


def test_all_executions_and_graphs_of_a_slot_compute_in_its_workspace() -> None:
    device = FakeDevice()
    program = FakeProgram(device, execution_bytes=4096)
    before, _ = device.memory()
    engine = engine_on(device, program, slots=3)
    opened, _ = device.memory()
    for bucket in (2, 4, 8):
        engine.capture(bucket)

    assert len(program.workspaces) == 3 + 3 * 3
    assert len(set(program.workspaces)) == 3
    assert before - opened >= 3 * 4096
    assert device.memory()[0] == opened  # graphs need no memory of their own


def test_sizes_that_are_given_up_are_not_run_and_their_graphs_are_freed() -> None:
    device = FakeDevice()
    program = FakeProgram(device)
    engine = engine_on(device, program)
    engine.capture(8)

    engine.keep(4)

    assert (engine.max_batch_size, engine.buckets, program.kept) == (4, (1, 2, 4), 4)
    assert engine.captured == frozenset()
    assert answered(engine, [1, 2, 3]) == [1, 2, 3]
    assert program.batches[-1] == 4


def test_a_runtime_with_its_own_streams_gets_complete_images_before_its_turn() -> None:
    device = FakeDevice()
    program = FakeProgram(device)
    program.in_stream_order = False
    engine = engine_on(device, program, slots=1)
    asked: list[list[str]] = []

    def more(room: int) -> list[Pixels]:
        asked.append(steps(device))
        return pictures(3)

    engine.run(0, pictures(1, 2), more)

    assert asked[0][-1] == "synchronize"
    calls = steps(device)
    assert calls[calls.index("compute") - 2 : calls.index("compute")] == ["synchronize", "record"]


@pytest.mark.lengthy
def test_a_size_that_cannot_be_captured_runs_eagerly() -> None:
    device = FakeDevice()
    program = FakeProgram(device, largest_batch=2)
    engine = engine_on(device, program)

    assert choose_graphs(engine, engine, [1, 4]) in ([], [1])

    assert answered(engine, [7]) == [7]
    assert 4 not in engine.captured
