"""Slots on a GPU: the order of calls and what becomes of faults, on a named fake of CUDA."""

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
from tidegate.service.engines.cuda.base import Device
from tidegate.service.engines.faults import CudaError, Fault, OutOfDeviceMemory, fault_of
from tidegate.service.engines.gpu_engine import DeviceEngine
from tidegate.service.engines.warm_up import choose_graphs
from tidegate.service.errors import EngineUnavailable
from tidegate.service.types import Pixels

INFO = EngineInfo("fake-gpu", "fake 1", "fake:0", "fp32", 1)
BUCKETS = (1, 2, 4, 8)
PATIENCE_S = 30.0


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
    """Return the calls since the engine was made, without their streams."""
    calls = [call.split("@")[0] for call in device.calls]
    return calls[len(calls) - calls[::-1].index("event") :] if "event" in calls else calls


def test_a_batch_is_copied_in_computed_copied_out_and_only_then_waited_for() -> None:
    device = FakeDevice()
    engine = engine_on(device)

    assert answered(engine, [7, 8, 9]) == [7, 8, 9]

    assert steps(device) == [
        *("record", "copy_in", "record"),
        *("record", "compute", "record", "copy_out", "record", "wait"),
        *("elapsed", "elapsed", "elapsed"),
    ]


def test_every_slot_has_a_stream_of_its_own() -> None:
    device = FakeDevice()
    engine = engine_on(device)

    answered(engine, [1], slot=0)
    answered(engine, [2], slot=1)

    assert {call for call in device.calls if call.startswith("compute")} == {
        "compute@1",
        "compute@2",
    }


@pytest.mark.parametrize(("images", "bucket"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_a_batch_is_padded_to_a_size_that_was_warmed(images: int, bucket: int) -> None:
    device = FakeDevice()
    program = FakeProgram(device)
    engine = engine_on(device, program)

    assert answered(engine, range(images)) == list(range(images))
    assert program.batches == [bucket]


def test_the_parts_of_a_run_are_told_by_the_devices_clock() -> None:
    engine = engine_on(FakeDevice())
    assert engine.parts_s(0) == {}

    engine.run(0, pictures(1, 2), lambda room: pictures(3))

    # The fake's clock ticks once an event; a batch that grew was copied in twice.
    parts = engine.parts_s(0)
    assert parts == pytest.approx({"copy_in": 0.002, "compute": 0.001, "copy_out": 0.001})


def test_a_batch_grows_while_another_one_has_the_device() -> None:
    """Of three slots two may compute; the third's images are copied in, and it asks last."""
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
        device.wait_for("copy_in@3")  # it is taken in without its turn
        assert not asked.is_set()
        assert not growing.done()
        go_on.set()
        outputs = growing.result(PATIENCE_S)
        assert [answer.result(PATIENCE_S) for answer in holding] == [[0], [1]]

    assert asked.is_set()
    assert [identity_in(outputs.rows(row, row + 1)) for row in range(3)] == [4, 5, 6]
    assert sorted(program.batches) == [1, 1, 4]


def test_nothing_is_asked_for_where_a_batch_is_full() -> None:
    engine = engine_on(FakeDevice())

    def more(room: int) -> list[Pixels]:
        raise AssertionError("a full batch has no room")

    assert len(engine.run(0, pictures(*range(8)), more).energy) == 8


def test_slots_from_threads_at_once_keep_their_answers_apart() -> None:
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

    assert answered(engine, [1, 2, 3]) == [1, 2, 3]
    assert answered(engine, [4, 5, 6, 7], slot=1) == [4, 5, 6, 7]
    assert steps(device).count("launch") == 2
    assert answered(engine, [8]) == [8]
    engine.release(4)
    assert answered(engine, [9, 9, 9]) == [9, 9, 9]
    assert steps(device).count("launch") == 2


def test_memory_for_fewer_slots_gives_fewer_slots_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = FakeDevice()
    with caplog.at_level(logging.WARNING):
        engine = engine_on(device, FakeProgram(device, executions=2), slots=4)

    assert engine.slots == 2
    assert "using 2 of 4 slots" in caplog.text
    assert answered(engine, [3], slot=1) == [3]


def test_what_an_execution_takes_is_looked_up_before_it_is_made() -> None:
    device = FakeDevice(memory=1000)

    with pytest.raises(EngineUnavailable, match=r"not enough memory for one slot.*TIDEGATE_MAX_BATCH_SIZE"):
        engine_on(device, FakeProgram(device, execution_bytes=1001))


def test_buffers_that_do_not_fit_are_not_a_crash_either() -> None:
    with pytest.raises(EngineUnavailable, match="cudaMalloc"):
        engine_on(FakeDevice(memory=64))


def test_what_is_no_lack_of_memory_is_not_taken_for_one() -> None:
    device = FakeDevice()
    program = FakeProgram(device)

    def broken(device: Device) -> Any:
        raise ValueError("another thing")

    program.execution = broken  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="another thing"):
        engine_on(device, program)


def test_a_batch_that_fails_leaves_nothing_to_the_next() -> None:
    device = FakeDevice()
    engine = engine_on(device, FakeProgram(device, fits=4))

    with pytest.raises(OutOfDeviceMemory):
        engine.run(0, pictures(*range(8)))
    with pytest.raises(ValueError, match="broadcast"):
        engine.run(0, [Pixels(picture(1)[:-1])])

    assert answered(engine, [5, 6]) == [5, 6]


def test_a_device_that_is_lost_says_so_whatever_failed_first() -> None:
    device = FakeDevice()
    engine = engine_on(device, FakeProgram(device, fits=4))
    device.lost = True

    with pytest.raises(CudaError) as caught:
        engine.run(0, pictures(*range(8)))

    assert fault_of(caught.value) is Fault.LOST
    assert isinstance(caught.value.__cause__, OutOfDeviceMemory)


def test_a_turn_is_given_back_by_a_batch_that_fails() -> None:
    device = FakeDevice()
    engine = engine_on(device, FakeProgram(device, fits=4), slots=1)

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
    # Twice a slot: the run before the capture, and what was captured.
    assert calls.count("compute") == 2 * engine.slots
    assert calls.index("synchronize") < calls.index("capture")


def test_a_graph_has_an_execution_of_its_own_and_frees_it_when_it_is_forgotten() -> None:
    device = FakeDevice()
    program = FakeProgram(device, executions=6)  # three slots' own, and one graph's of each
    engine = engine_on(device, program, slots=3)
    engine.capture(4)

    with pytest.raises(OutOfDeviceMemory, match="no more executions"):
        engine.capture(2)
    assert engine.captured == {4}

    engine.forget(4)
    assert engine.captured == frozenset()
    assert answered(engine, [7, 8, 9]) == [7, 8, 9]


def test_a_size_that_cannot_be_captured_runs_as_before() -> None:
    device = FakeDevice()
    program = FakeProgram(device, fits=2)
    engine = engine_on(device, program)

    assert choose_graphs(engine, engine, [1, 4]) in ([], [1])

    assert answered(engine, [7]) == [7]
    assert 4 not in engine.captured
