"""The operator's settings are used; unset values are measured."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.contract import tiny_graph
from tests.unit.engines.onnxruntime.test_cpu import without_cuda
from tidegate.service.cpu import usable_cores
from tidegate.service.engines import cpu_warm_up, warm_up
from tidegate.service.engines.choose import open_engine
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.engines.open_gpu import GPU_ENGINES
from tidegate.service.engines.openvino import runtime
from tidegate.service.errors import EngineUnavailable
from tidegate.service.types import Outputs, Pixels

pytestmark = pytest.mark.process  # measures for seconds

HINTS = (1, 2, 4, 8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_graph.sealed())
    return path


def test_settings_are_used(model: Path) -> None:
    config = EngineConfig("onnx-cpu", slots=2, threads_per_slot=1, max_batch_size=4)

    opened = open_engine(model, config, HINTS)

    assert opened.engine.info.name == "onnx-cpu"
    assert (opened.engine.slots, opened.engine.info.threads_per_slot) == (2, 1)
    assert opened.engine.max_batch_size == 4
    assert list(opened.latency_s) == [1, 2, 4]


@pytest.mark.parametrize(
    ("largest", "buckets"), [(1, [1]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])]
)
def test_the_largest_batch_set_is_the_last_bucket_warmed(
    model: Path, largest: int, buckets: list[int]
) -> None:
    config = EngineConfig(slots=1, threads_per_slot=1, max_batch_size=largest)

    assert list(open_engine(model, config, HINTS).latency_s) == buckets


def test_unset_values_are_measured(model: Path) -> None:
    opened = open_engine(model, EngineConfig(), HINTS)

    assert opened.engine.info.name == "onnx-cpu"
    assert 1 <= opened.engine.slots * opened.engine.info.threads_per_slot <= max(2, usable_cores())
    assert list(opened.latency_s) == list(HINTS[: len(opened.latency_s)])
    assert all(took > 0 for took in opened.latency_s.values())
    assert opened.engine.max_batch_size == max(opened.latency_s)  # others need no memory


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (EngineConfig(slots=1, max_batch_size=1), (1, usable_cores())),
        (EngineConfig(slots=64, max_batch_size=1), (64, 1)),
        (EngineConfig(threads_per_slot=usable_cores(), max_batch_size=1), (1, usable_cores())),
        (EngineConfig(threads_per_slot=64, max_batch_size=1), (1, 64)),
    ],
)
def test_a_single_set_value_divides_the_cores(
    model: Path, config: EngineConfig, shape: tuple[int, int]
) -> None:
    engine = open_engine(model, config, HINTS).engine

    assert (engine.slots, engine.info.threads_per_slot) == shape


def test_an_unknown_engine_is_rejected_with_a_list_of_the_known_ones(model: Path) -> None:
    with pytest.raises(
        EngineUnavailable, match=r"onnx-gpu is not one of auto, tensorrt, .*, onnx-cpu"
    ):
        open_engine(model, EngineConfig("onnx-gpu"), HINTS)


@without_cuda
@pytest.mark.parametrize("name", GPU_ENGINES)
def test_a_named_engine_that_does_not_load_is_not_replaced_by_another(
    model: Path, name: str
) -> None:
    with pytest.raises(EngineUnavailable, match=r"no GPU|cuda-bindings failed to load"):
        open_engine(model, EngineConfig(name), HINTS)


def test_openvino_without_its_package_says_what_to_install(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it raises ImportError
    runtime.core.cache_clear()

    with pytest.raises(EngineUnavailable, match=r"pip install 'tidegate\[openvino\]'"):
        open_engine(model, EngineConfig("openvino"), HINTS)


def test_a_bundle_in_bf16_is_rejected_by_another_engine(model: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"in bf16.*set TIDEGATE_ENGINE=openvino"):
        open_engine(model, EngineConfig("onnx-cpu"), HINTS, "bf16")


def test_a_corrupt_model_is_rejected(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"not a model")

    with pytest.raises(EngineUnavailable, match=r"model\.onnx"):
        open_engine(model, EngineConfig(slots=1, threads_per_slot=1), HINTS)


Turns = Callable[[Sequence[tuple[OnnxEngine, Sequence[Pixels]]]], list[list[tuple[float, ...]]]]


def scripted(took_s: Callable[[int, int, int], float]) -> Turns:
    """Replace the timing: `took_s` gets (threads per slot, images, number of earlier calls)."""
    asked = itertools.count()

    def turns(
        batches: Sequence[tuple[OnnxEngine, Sequence[Pixels]]],
    ) -> list[list[tuple[float, ...]]]:
        one_turn = tuple(
            took_s(engine.info.threads_per_slot, len(images), next(asked))
            for engine, images in batches
        )
        return [[one_turn]] * batches[0][0].slots

    return turns


@pytest.mark.parametrize(
    ("gain", "buckets"),
    [(1.0, {1}), (1.02, {1}), (1.04, {1, 2, 4}), (0.9, {1})],
)
def test_a_larger_batch_must_give_more_throughput(
    gain: float, buckets: set[int], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def took_s(_threads: int, images: int, _asked: int) -> float:
        return float(0.1 * images / gain ** math.log2(images))

    monkeypatch.setattr(warm_up, "time_in_turns", scripted(took_s))

    opened = open_engine(model, EngineConfig(slots=1, threads_per_slot=1), [1, 2, 4])

    assert opened.latency_s.keys() == buckets


def test_a_fast_engine_gains_from_fewer_batches(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        warm_up, "time_in_turns", scripted(lambda _threads, images, _asked: 0.001 * images)
    )

    opened = open_engine(model, EngineConfig(slots=1, threads_per_slot=1), [1, 2, 4])

    assert opened.latency_s.keys() == {1, 2, 4}


def test_noise_does_not_enlarge_batches(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every second round the smaller batch is disturbed."""

    def took_s(_threads: int, images: int, asked: int) -> float:
        disturbed = images == 1 and asked % 4 == 3
        return 0.1 * images * (1.5 if disturbed else 1.0)

    monkeypatch.setattr(warm_up, "time_in_turns", scripted(took_s))

    opened = open_engine(model, EngineConfig(slots=1, threads_per_slot=1), [1, 2, 4])

    assert opened.latency_s == {1: 0.1}


def test_a_machine_whose_speed_changes_does_not_hide_a_gain(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs are fast, the next three slow: each size alone could be measured in either."""
    asked = itertools.count()

    def timed(_engine: OnnxEngine, _slot: int, images: Sequence[Pixels]) -> float:
        is_slow = next(asked) // 3 % 2
        return float(0.1 * len(images) / 1.1 ** math.log2(len(images)) * (1.6 if is_slow else 1))

    monkeypatch.setattr(warm_up, "_TRIAL_S", 0.0)
    monkeypatch.setattr(warm_up, "_timed", timed)

    opened = open_engine(model, EngineConfig(slots=1, threads_per_slot=1), [1, 2, 4])

    assert opened.latency_s.keys() == {1, 2, 4}


@pytest.mark.parametrize(("gain", "shape"), [(1.09, (2, 1)), (1.11, (1, 2))])
def test_cores_share_a_batch_only_for_10_percent_more_throughput(
    model: Path, gain: float, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def took_s(threads: int, _images: int, _asked: int) -> float:
        return 0.02 if threads == 1 else 0.01 / gain

    monkeypatch.setattr(cpu_warm_up, "usable_cores", lambda: 2)
    monkeypatch.setattr(warm_up, "time_in_turns", scripted(took_s))

    engine = open_engine(model, EngineConfig(max_batch_size=1), HINTS).engine

    assert (engine.slots, engine.info.threads_per_slot) == shape


@pytest.mark.parametrize(
    ("gain", "threads_set", "wide"),
    [(1.1, 0, None), (1.2, 0, 2), (1.2, 1, None)],
    ids=["not worth it", "worth it", "one thread is all it may use"],
)
def test_a_single_image_gets_all_cores_if_that_is_clearly_faster(
    model: Path,
    gain: float,
    threads_set: int,
    wide: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def took_s(engine: OnnxEngine, _slot: int, _images: Sequence[Pixels]) -> float:
        return 0.02 / (gain if engine.info.threads_per_slot > 1 else 1)

    monkeypatch.setattr(cpu_warm_up, "usable_cores", lambda: 2)
    monkeypatch.setattr(
        warm_up, "time_in_turns", scripted(lambda _threads, images, _asked: 0.02 * images)
    )
    monkeypatch.setattr(warm_up, "_timed", took_s)
    config = EngineConfig(slots=2, threads_per_slot=threads_set, max_batch_size=1)

    opened = open_engine(model, config, HINTS)

    assert (opened.all_cores_engine and opened.all_cores_engine.info.threads_per_slot) == wide
    assert opened.single_image_s == (wide and 0.02 / gain)


def test_a_slot_that_fails_in_warm_up_does_not_block_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxEngine.run

    def broken_on_one_slot(engine: OnnxEngine, slot: int, images: Sequence[Pixels]) -> Outputs:
        if slot == 1:
            raise RuntimeError("no memory left")
        return run(engine, slot, images)

    monkeypatch.setattr(OnnxEngine, "run", broken_on_one_slot)

    with pytest.raises(RuntimeError, match="no memory left"):
        open_engine(model, EngineConfig(slots=2, threads_per_slot=1), HINTS)
