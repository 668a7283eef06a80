"""The GPU engines on a real GPU: the CPU's answers, graphs, overlap, memory, and real faults."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.gpu.conftest import Opened
from tests.server import DEMO_BUNDLE
from tidegate.models.benchmarks.gpu.measure import overlap, plateau
from tidegate.models.benchmarks.gpu.parity import answers, differences
from tidegate.models.demo.spec import PREPROCESS
from tidegate.models.parity.preprocessing import normalised
from tidegate.models.precision.fp16 import to_fp16
from tidegate.models.probes.photographs import PHOTOS
from tidegate.models.sealing.unseal import reseal, unseal
from tidegate.service.bundle.golden import check_golden
from tidegate.service.bundle.store import open_bundle
from tidegate.service.engines.cuda.base import Cuda
from tidegate.service.engines.faults import CudaError, Fault, fault_of
from tidegate.service.engines.gpu_engine import DeviceEngine
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.types import Outputs, Pixels

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

FP32 = 1e-4  # relative to the largest value: the guarantee with TF32 off
FP16 = 2e-2
BATCHES = int(os.environ.get("GPU_TEST_BATCHES", "10000"))
BATCHES_S = 300.0  # their time limit


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    """Photographs and noise of many strengths, which the gate accepts, reviews and rejects."""
    rng = np.random.default_rng(3)
    noise = [
        Pixels(rng.normal(128, strength, (224, 224, 3)).clip(0, 255).astype(np.uint8))
        for strength in np.linspace(1, 100, 58)
    ]
    return [preprocess(path.read_bytes(), PREPROCESS, 10**8) for path in PHOTOS] + noise


@pytest.fixture(scope="module")
def expected(images: list[Pixels]) -> Outputs:
    return answers(OnnxEngine(DEMO_BUNDLE / "model.onnx", buckets=(1, 8)), images)


def test_fp32_gives_the_cpu_s_outputs_and_decisions(
    engine: DeviceEngine, images: list[Pixels], expected: Outputs
) -> None:
    figures = differences(answers(engine, images), expected, open_bundle(DEMO_BUNDLE).gate)

    assert max(figures[name] for name in ("logits", "energy", "mahalanobis")) <= FP32, figures
    assert figures["other_class"] == 0
    assert figures["flips_outside_the_band"] == 0


def test_the_golden_probes_pass_on_every_slot(engine: DeviceEngine) -> None:
    bundle = open_bundle(DEMO_BUNDLE)

    for slot in range(engine.slots):
        assert check_golden(bundle, partial(engine.run, slot))


def test_fp16_keeps_the_class_and_the_decision(
    opened: Opened, images: list[Pixels], expected: Outputs, tmp_path: Path
) -> None:
    sealed = (DEMO_BUNDLE / "model.onnx").read_bytes()
    some = np.stack([normalised(image, PREPROCESS) for image in images[:8]]).astype(np.float32)
    model = tmp_path / "model.onnx"
    model.write_bytes(reseal(sealed, to_fp16(unseal(sealed), some)))
    engine = opened(model, precision="fp16")

    got = answers(engine, images[: len(PHOTOS)])
    photos = expected.rows(0, len(PHOTOS))
    figures = differences(got, photos, open_bundle(DEMO_BUNDLE).gate)

    assert figures["logits"] <= FP16, figures
    assert figures["other_class"] == 0
    assert got.logits.dtype == got.scores.dtype == np.float32


def test_every_batch_size_and_slot_gives_the_same(
    engine: DeviceEngine, images: list[Pixels], expected: Outputs
) -> None:
    for count in range(1, engine.max_batch_size + 1):
        outputs = engine.run(count % engine.slots, images[:count])
        scale = np.abs(expected.logits).max()
        assert np.abs(outputs.logits - expected.logits[:count]).max() <= FP32 * scale


def test_a_graph_gives_the_outputs_of_the_eager_run(
    engine: DeviceEngine, images: list[Pixels]
) -> None:
    if not engine.can_capture:
        pytest.skip(f"{engine.info.name} has no graphs")

    def run(bucket: int) -> list[Outputs]:
        return [engine.run(slot, images[:bucket]) for slot in range(engine.slots)]

    eager = {bucket: run(bucket) for bucket in engine.buckets}
    for bucket in engine.buckets:
        engine.capture(bucket)
    # All sizes are captured by now, and eager runs of other sizes have happened in between.
    for bucket in (*engine.buckets, *reversed(engine.buckets)):
        other = [engine.run(slot, images[-bucket:]) for slot in range(engine.slots)]
        graphed = run(bucket)
        engine.release(bucket)
        run(bucket)
        engine.capture(bucket)
        for before, different, after in zip(eager[bucket], other, graphed, strict=True):
            assert np.array_equal(before.logits, after.logits)
            assert not np.array_equal(before.logits, different.logits)


def test_concurrent_slots_do_not_mix_their_answers(
    engine: DeviceEngine, images: list[Pixels], expected: Outputs
) -> None:
    scale = np.abs(expected.logits).max()

    def work(slot: int) -> float:
        worst = 0.0
        for turn in range(100):
            order = [(7 * slot + turn + row) % len(images) for row in range(1 + turn % 16)]
            outputs = engine.run(slot, [images[index] for index in order])
            worst = max(worst, float(np.abs(outputs.logits - expected.logits[order]).max()))
        return worst / float(scale)

    with ThreadPoolExecutor(engine.slots) as pool:
        assert max(pool.map(work, range(engine.slots))) <= FP32


def test_concurrent_batches_are_faster_than_sequential_ones(
    engine: DeviceEngine, images: list[Pixels]
) -> None:
    assert overlap(engine, images, batches=30)["ratio"] < 1


def test_memory_does_not_grow_over_many_batches(
    engine: DeviceEngine, cuda: Cuda, images: list[Pixels]
) -> None:
    used = plateau(engine, cuda.device(0), images, BATCHES, BATCHES_S)

    assert used["late_bytes"] <= used["early_bytes"] + (1 << 20), used


def test_the_phases_of_a_batch_are_timed_by_the_device(
    engine: DeviceEngine, images: list[Pixels]
) -> None:
    engine.run(0, images[:8])

    parts = engine.parts_s(0)
    assert set(parts) == {"copy_in", "compute", "copy_out"}
    assert all(0 < seconds < 10 for seconds in parts.values())


def test_a_batch_is_topped_up_on_a_busy_device(engine: DeviceEngine, images: list[Pixels]) -> None:
    stop = threading.Event()

    def keep_busy(slot: int) -> None:
        while not stop.is_set():
            engine.run(slot, images[: engine.max_batch_size])

    def more(room: int) -> Sequence[Pixels]:
        return images[5:8][:room]

    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(keep_busy, slot) for slot in range(engine.slots - 1)]
        try:
            outputs = engine.run(engine.slots - 1, images[:5], more)
        finally:
            stop.set()
        assert [done.result() for done in busy] == [None] * len(busy)

    assert len(outputs.scores) == 8


def test_too_little_memory_is_distinguished_from_a_lost_device(cuda: Cuda) -> None:
    device = cuda.device(0)
    device.use()
    _, total = device.memory()

    with pytest.raises(CudaError) as caught:
        device.allocate(2 * total)

    assert fault_of(caught.value) is Fault.MEMORY
    device.close()


def test_closing_frees_the_buffers(opened: Opened, cuda: Cuda) -> None:
    device = cuda.device(0)
    device.use()
    opened(slots=1).close()  # so that the memory a runtime keeps per process is already allocated
    before, _ = device.memory()

    opened(slots=3).close()

    after, _ = device.memory()
    assert before - after <= 64 << 20
