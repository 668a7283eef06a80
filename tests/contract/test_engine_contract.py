"""The contract of every engine, including the fake. A new engine is added as one more factory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import fakes
from tests.contract import tiny_graph
from tests.fake_cuda import FakeDevice
from tests.fake_program import FakeProgram
from tidegate.service.engines.base import Engine, EngineInfo
from tidegate.service.engines.gpu_engine import DeviceEngine
from tidegate.service.engines.multi_device import Fleet
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.engines.onnxruntime.gpu import OnnxGpuProgram
from tidegate.service.engines.onnxruntime.session import runtime
from tidegate.service.engines.open_gpu import GPU_ENGINES, EngineRequest, GpuConfig, open_gpu_engine
from tidegate.service.engines.openvino.engine import OpenVinoEngine
from tidegate.service.errors import EngineUnavailable
from tidegate.service.types import Outputs, Pixels

SLOTS = 2
BUCKETS = (1, 2, 4, 8)
Same = Callable[[Outputs, Outputs], None]
TOLERANCE = 1e-5  # of the largest |value|: the order of summation depends on the batch size
GPU_TOLERANCE = 1e-4  # the kernel depends on it as well
ROUNDED_TOLERANCE = 1e-2  # and a rounding error is 2^-9 in bf16, 2^-12 in fp16
OPENVINO_KINDS = {
    "fp32": ("fp32", 1),
    "bf16": ("bf16", 1),
    "int8": ("int8", 1),
    "two threads a slot": ("fp32", 2),
}


def fake_engine(folder: Path) -> Engine:
    return fakes.FakeEngine(slots=SLOTS, max_batch_size=BUCKETS[-1])


def onnx_engine(folder: Path) -> Engine:
    model = folder / "model.onnx"
    model.write_bytes(tiny_graph.sealed())
    return OnnxEngine(model, slots=SLOTS, threads_per_slot=1, buckets=BUCKETS)


def threaded_onnx_engine(folder: Path) -> Engine:
    model = folder / "model.onnx"
    model.write_bytes(tiny_graph.sealed())
    return OnnxEngine(model, slots=SLOTS, threads_per_slot=2, buckets=BUCKETS)


def onnx_engine_in(precision: str) -> Callable[[Path], Engine]:
    """Return a factory for ONNX Runtime on a CPU with a graph in `precision`."""

    def opened(folder: Path) -> Engine:
        model = folder / "model.onnx"
        model.write_bytes(tiny_graph.sealed_in(precision))
        return OnnxEngine(model, slots=SLOTS, buckets=BUCKETS, precision=precision)

    return opened


def on_openvino(precision: str, threads: int = 1) -> Callable[[Path], Engine]:
    """Return a factory for OpenVINO, which skips the test if it cannot compute in `precision`."""

    def opened(folder: Path) -> Engine:
        model = folder / "model.onnx"
        model.write_bytes(tiny_graph.sealed_in(precision, "openvino"))
        try:
            return OpenVinoEngine(
                model,
                slots=SLOTS,
                threads_per_slot=threads,
                buckets=BUCKETS,
                precision=precision,
            )
        except EngineUnavailable as error:
            pytest.skip(str(error))

    return opened


def device_engine(folder: Path) -> Engine:
    device = FakeDevice()
    device.use()
    info = EngineInfo("fake-gpu", "fake 1", "fake:0", "fp32", 1)
    program = FakeProgram(device)
    return DeviceEngine(device, program, info, slots=SLOTS, buckets=BUCKETS)


def onnx_on_a_device(folder: Path) -> Engine:
    """The GPU engine on ONNX Runtime's CPU provider: everything except the GPU."""
    model = folder / "model.onnx"
    model.write_bytes(tiny_graph.sealed())
    device = FakeDevice()
    device.use()
    program = OnnxGpuProgram(
        model,
        "onnx-cpu",
        [("CPUExecutionProvider", {})],
        device,
        memory="cpu",
        session_per_batch=True,
    )
    info = EngineInfo("onnx-cpu", runtime(), "fake:0", "fp32", 1)
    return DeviceEngine(device, program, info, slots=SLOTS, buckets=BUCKETS)


def fleet(folder: Path) -> Engine:
    return Fleet([fakes.FakeEngine(max_batch_size=BUCKETS[-1]) for _ in range(SLOTS)])


def on_gpu(name: str) -> Callable[[Path], Engine]:
    """Return a factory for a real GPU engine, which skips the test if the engine does not load."""

    def opened(folder: Path) -> Engine:
        model = folder / "model.onnx"
        model.write_bytes(tiny_graph.sealed())
        config = GpuConfig(plan_cache=folder / "plans")
        try:
            return open_gpu_engine(EngineRequest(model, name, BUCKETS, "fp32"), config, SLOTS)
        except EngineUnavailable as error:
            pytest.skip(str(error))

    return opened


# Each engine's factory, with the side, classes and features of its model.
ENGINES: dict[str, tuple[Callable[[Path], Engine], tuple[int, int, int]]] = {
    "fake": (fake_engine, (fakes.SIDE, fakes.CLASSES, fakes.FEATURES)),
    "onnx-cpu": (onnx_engine, (tiny_graph.SIDE, tiny_graph.CLASSES, tiny_graph.FEATURES)),
    "onnx-cpu, two threads a slot": (
        threaded_onnx_engine,
        (tiny_graph.SIDE, tiny_graph.CLASSES, tiny_graph.FEATURES),
    ),
    **{
        f"onnx-cpu, {precision}": (
            onnx_engine_in(precision),
            (tiny_graph.SIDE, tiny_graph.CLASSES, tiny_graph.FEATURES),
        )
        for precision in ("fp16", "int8")
    },
    **{
        f"openvino, {kind}": (
            on_openvino(*given),
            (tiny_graph.SIDE, tiny_graph.CLASSES, tiny_graph.FEATURES),
        )
        for kind, given in OPENVINO_KINDS.items()
    },
    "fake GPU, fake program": (device_engine, (fakes.SIDE, fakes.CLASSES, fakes.FEATURES)),
    "fake GPU, real ONNX Runtime": (
        onnx_on_a_device,
        (tiny_graph.SIDE, tiny_graph.CLASSES, tiny_graph.FEATURES),
    ),
    **{
        name: (on_gpu(name), (tiny_graph.SIDE, tiny_graph.CLASSES, tiny_graph.FEATURES))
        for name in GPU_ENGINES
    },
    "fleet of two fakes": (fleet, (fakes.SIDE, fakes.CLASSES, fakes.FEATURES)),
}

MARKS = {
    **dict.fromkeys(GPU_ENGINES, pytest.mark.gpu),
    **{f"openvino, {kind}": pytest.mark.openvino for kind in OPENVINO_KINDS},
}


@pytest.fixture(
    params=[pytest.param(name, marks=MARKS.get(name, ())) for name in ENGINES],
    scope="module",
)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = ENGINES[kind][0](tmp_path_factory.mktemp("engine"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def images(kind: str) -> list[Pixels]:
    side = ENGINES[kind][1][0]
    rng = np.random.default_rng(9)
    return [Pixels(rng.integers(0, 256, (side, side, 3), np.uint8)) for _ in range(BUCKETS[-1])]


@pytest.fixture(scope="module")
def singles(engine: Engine, images: list[Pixels]) -> list[Outputs]:
    return [engine.run(0, [image]) for image in images]


def assert_same(got: Outputs, expected: Outputs, tolerance: float) -> None:
    for field in fields(Outputs):
        mine, theirs = getattr(got, field.name), getattr(expected, field.name)
        if field.name == "nearest_class":
            assert np.array_equal(mine, theirs)
        else:
            scale = float(np.abs(theirs).max())
            assert np.abs(mine - theirs).max() <= tolerance * max(scale, 1.0), field.name


@pytest.fixture(scope="module")
def same(kind: str) -> Same:
    """Return a function that compares two outputs within this engine's tolerance."""
    if kind in ("openvino, bf16", "onnx-cpu, fp16"):
        return partial(assert_same, tolerance=ROUNDED_TOLERANCE)
    return partial(assert_same, tolerance=GPU_TOLERANCE if kind in GPU_ENGINES else TOLERANCE)


def copied(outputs: Outputs) -> Outputs:
    return Outputs(*(getattr(outputs, field.name).copy() for field in fields(Outputs)))


@pytest.mark.parametrize("count", range(1, BUCKETS[-1] + 1))
def test_outputs_are_batch_first_with_one_row_per_image(
    engine: Engine, kind: str, images: list[Pixels], count: int
) -> None:
    _, classes, features = ENGINES[kind][1]

    outputs = engine.run(0, images[:count])

    assert outputs.logits.shape == (count, classes)
    assert outputs.features.shape == (count, features)
    assert outputs.scores.shape == (count, 2)
    assert outputs.nearest_class.shape == (count,)


def test_outputs_are_float32_and_class_ids_are_int64(engine: Engine, images: list[Pixels]) -> None:
    outputs = engine.run(0, images[:3])

    floats = (outputs.logits, outputs.features, outputs.scores)
    assert {array.dtype for array in floats} == {np.dtype(np.float32)}
    assert outputs.nearest_class.dtype == np.int64


@pytest.mark.parametrize("count", range(1, BUCKETS[-1] + 1))
def test_a_batch_equals_its_images_one_by_one(
    engine: Engine, images: list[Pixels], singles: list[Outputs], same: Same, count: int
) -> None:
    outputs = engine.run(0, images[:count])

    for row in range(count):
        same(outputs.rows(row, row + 1), singles[row])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(order=st.lists(st.integers(0, BUCKETS[-1] - 1), min_size=1, max_size=BUCKETS[-1]))
def test_answers_have_the_order_of_the_images(
    engine: Engine, images: list[Pixels], singles: list[Outputs], same: Same, order: list[int]
) -> None:
    outputs = engine.run(0, [images[index] for index in order])

    for row, index in enumerate(order):
        same(outputs.rows(row, row + 1), singles[index])


def test_the_test_images_have_different_answers(singles: list[Outputs]) -> None:
    first = singles[0].logits

    for other in singles[1:]:
        assert np.abs(other.logits - first).max() > 100 * TOLERANCE


def test_returned_arrays_are_not_overwritten_by_the_next_run(
    engine: Engine, images: list[Pixels]
) -> None:
    for count in (1, 3, 4):
        outputs = engine.run(0, images[:count])
        kept = copied(outputs)

        engine.run(0, images[-count:])

        for field in fields(Outputs):
            assert np.array_equal(getattr(outputs, field.name), getattr(kept, field.name))


def test_the_images_are_not_modified(engine: Engine, images: list[Pixels]) -> None:
    before = [image.copy() for image in images]

    engine.run(0, images)

    assert all(np.array_equal(one, other) for one, other in zip(images, before, strict=True))


def test_read_only_pixels_are_accepted(
    engine: Engine, images: list[Pixels], singles: list[Outputs], same: Same
) -> None:
    frozen = [Pixels(image.copy()) for image in images[:2]]
    for image in frozen:
        image.flags.writeable = False

    same(engine.run(0, frozen[:1]), singles[0])
    same(engine.run(0, frozen).rows(1, 2), singles[1])


def test_concurrent_slots_give_the_same_answers(
    engine: Engine, images: list[Pixels], singles: list[Outputs], same: Same
) -> None:
    def work(slot: int) -> list[tuple[int, Outputs]]:
        results = []
        for turn in range(300):  # different images on each slot, to detect a shared buffer
            order = [(turn + (1 + 2 * slot) * row) % len(images) for row in range(2 + turn % 7)]
            outputs = engine.run(slot, [images[index] for index in order])
            results += [(index, outputs.rows(row, row + 1)) for row, index in enumerate(order)]
        return results

    with ThreadPoolExecutor(SLOTS) as pool:
        answers = [answer for slot in pool.map(work, range(engine.slots)) for answer in slot]

    for index, outputs in answers:
        same(outputs, singles[index])


def test_topped_up_images_come_last(
    engine: Engine, images: list[Pixels], singles: list[Outputs], same: Same
) -> None:
    asked: list[int] = []

    def more(room: int) -> list[Pixels]:
        asked.append(room)
        return images[3:5][:room]

    outputs = engine.run(0, images[:3], more)

    assert len(outputs.scores) == (5 if asked else 3)
    assert asked in ([], [BUCKETS[-1] - 3])
    for row in range(len(outputs.scores)):
        same(outputs.rows(row, row + 1), singles[row])


def test_the_engine_has_complete_info(engine: Engine) -> None:
    assert engine.slots == SLOTS
    assert engine.max_batch_size == BUCKETS[-1]
    assert engine.info.name
    assert engine.info.runtime
    assert engine.info.threads_per_slot >= 1
    assert engine.input_size[0] == engine.input_size[1]
    assert min(engine.device_of(slot) for slot in range(SLOTS)) == 0
    assert {*engine.parts_s(0)} in (set(), {"copy_in", "compute", "copy_out"})


def test_every_row_of_a_batch_is_finite(engine: Engine, images: list[Pixels]) -> None:
    outputs = engine.run(0, images)

    assert outputs.all_finite() == [True] * len(images)
