"""OpenVINO as an Engine: the exact gate, batches of other sizes, its thread, and its errors."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.contract import tiny_graph
from tests.unit.engines.onnxruntime.test_cpu import photos
from tidegate.models.sealing.check import check_against_float64
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.engines.openvino import engine, program, runtime
from tidegate.service.engines.openvino.engine import OpenVinoEngine, _parts
from tidegate.service.errors import BundleRefused, EngineUnavailable

on_openvino = pytest.mark.openvino


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_graph.sealed())
    return path


def logits_from_the_map(model: Path) -> Path:
    """Rewrite the graph so that the logits need more than the features."""
    graph = onnx.load(model)
    last = next(node for node in graph.graph.node if "logits" in node.output)
    last.output[0] = "half"
    graph.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["map", "peak_axes"], ["peak"], keepdims=0),
            helper.make_node("Unsqueeze", ["peak", "peak_axis"], ["peaks"]),
            helper.make_node("Add", ["half", "peaks"], ["logits"]),
        ]
    )
    graph.graph.initializer.extend(
        [
            helper.make_tensor("peak_axes", TensorProto.INT64, [3], [1, 2, 3]),
            helper.make_tensor("peak_axis", TensorProto.INT64, [1], [1]),
        ]
    )
    _sort(graph.graph)
    onnx.save(graph, model)
    return model


def _sort(graph: onnx.GraphProto) -> None:
    known = {item.name for item in (*graph.initializer, *graph.input)}
    waiting, placed = list(graph.node), []
    while waiting:
        ready = next(node for node in waiting if known.issuperset(filter(None, node.input)))
        waiting.remove(ready)
        placed.append(ready)
        known.update(ready.output)
    del graph.node[:]
    graph.node.extend(placed)


@on_openvino
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("more_than_features", [False, True])
def test_the_gate_is_exact_in_every_precision(
    model: Path, precision: str, *, more_than_features: bool
) -> None:
    if more_than_features:
        logits_from_the_map(model)

    outputs = OpenVinoEngine(model, buckets=(1, 64), precision=precision).run(0, photos(64))

    check_against_float64(outputs, tiny_graph.head())


@on_openvino
@pytest.mark.parametrize("more_than_features", [False, True])
def test_fp32_gives_the_numbers_of_onnx_runtime(model: Path, *, more_than_features: bool) -> None:
    if more_than_features:
        logits_from_the_map(model)
    images = photos(8)

    mine = OpenVinoEngine(model, buckets=(1, 8)).run(0, images)
    theirs = OnnxEngine(model, buckets=(1, 8)).run(0, images)

    for name in ("logits", "features", "scores"):
        assert np.allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-4, atol=1e-5)
    assert np.array_equal(mine.nearest_class, theirs.nearest_class)


@on_openvino
def test_bf16_rounds_the_network(model: Path) -> None:
    images = photos(8)

    exact = OpenVinoEngine(model, buckets=(1, 8)).run(0, images)
    rounded = OpenVinoEngine(model, buckets=(1, 8), precision="bf16").run(0, images)

    assert 1e-5 < np.abs(rounded.features - exact.features).max() < 0.1


@on_openvino
def test_a_slot_of_one_thread_computes_on_the_calling_thread(model: Path) -> None:
    engine, images = OpenVinoEngine(model, buckets=(1, 8)), photos(8)
    engine.run(0, images)
    process_s, thread_s = time.process_time(), time.thread_time()

    for _ in range(200):
        engine.run(0, images)

    process_s, thread_s = time.process_time() - process_s, time.thread_time() - thread_s
    assert thread_s >= 0.9 * process_s


def test_a_batch_of_another_size_runs_as_several() -> None:
    assert list(_parts(7, (1, 2, 4))) == [(0, 4), (4, 2), (6, 1)]
    assert list(_parts(11, (1, 2, 4))) == [(0, 4), (4, 4), (8, 2), (10, 1)]
    assert list(_parts(1, (1,))) == [(0, 1)]


@on_openvino
def test_what_only_larger_batches_need_is_freed(model: Path) -> None:
    engine, images = OpenVinoEngine(model, buckets=(1, 2, 4, 8)), photos(8)
    engine.run(0, images)

    engine.keep(2)

    assert engine.max_batch_size == 2
    assert list(engine._requests[0]) == [1]
    assert len(engine.run(0, images[:2]).scores) == 2


@on_openvino
def test_the_info_names_the_instructions(model: Path) -> None:
    info = OpenVinoEngine(model).info

    assert (info.name, info.device, info.precision) == ("openvino", "cpu", "fp32")
    assert info.runtime.startswith("openvino 20")
    assert info.instructions.endswith(("f32", "FP32"))


@on_openvino
def test_only_a_cpu_is_asked_for_its_instructions(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime has no such words for other devices; HETERO stands for one."""
    monkeypatch.setattr(program, "check_device", lambda device, precision: None)
    monkeypatch.setattr(engine, "device_name", lambda device: "a GPU")
    monkeypatch.setattr(program.Request, "instructions", property(lambda _: pytest.fail("asked")))

    info = OpenVinoEngine(model, device="HETERO:CPU").info

    assert (info.instructions, info.device) == ("", "HETERO:CPU a GPU")


@on_openvino
def test_a_device_that_is_missing_is_rejected_with_those_that_exist(model: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"no device NPU here; it has CPU"):
        OpenVinoEngine(model, device="NPU")


@on_openvino
def test_a_cpu_without_bf16_is_rejected_with_the_alternative(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OldCpu:
        """A fake runtime on a CPU without bf16."""

        available_devices = ("CPU",)

        def get_property(self, device: str, name: str) -> object:
            return {"OPTIMIZATION_CAPABILITIES": ["FP32", "INT8"], "FULL_DEVICE_NAME": "Old CPU"}[
                name
            ]

    monkeypatch.setattr(runtime, "core", OldCpu)

    with pytest.raises(EngineUnavailable, match=r"in bf16, and Old CPU has no .*Serve the fp32"):
        OpenVinoEngine(model, precision="bf16")


@on_openvino
@pytest.mark.parametrize("name", ["logits", "scores"])
def test_a_graph_that_is_not_sealed_is_rejected(model: Path, name: str) -> None:
    graph = onnx.load(model)
    kept = [output for output in graph.graph.output if output.name != name]
    del graph.graph.output[:]
    graph.graph.output.extend(kept)
    onnx.save(graph, model)

    with pytest.raises(BundleRefused, match=f"has no output {name}"):
        OpenVinoEngine(model)


@on_openvino
def test_a_file_that_is_no_graph_is_rejected(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"not a model")

    with pytest.raises(EngineUnavailable, match=r"openvino cannot load .*model\.onnx"):
        OpenVinoEngine(model)
