"""ONNX Runtime as an Engine: its scores, its padding, and its errors on loading."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.contract import tiny_graph
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.engines.onnxruntime.session import open_session
from tidegate.service.errors import EngineUnavailable
from tidegate.service.ood.scores import energy_score, mahalanobis_score
from tidegate.service.types import Pixels

SIDE = tiny_graph.SIDE
without_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="this ONNX Runtime has CUDA",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_graph.sealed())
    return path


def photos(count: int) -> list[Pixels]:
    """Return images of different colour and contrast, so that several classes are nearest."""
    rng = np.random.default_rng(4)
    colour, contrast = rng.uniform(0, 255, (count, 1, 1, 3)), rng.uniform(1, 80, (count, 1, 1, 1))
    values = colour + contrast * rng.normal(size=(count, SIDE, SIDE, 3))
    return [Pixels(image) for image in values.clip(0, 255).astype(np.uint8)]


def test_the_scores_agree_with_the_float64_reference(model: Path) -> None:
    head = tiny_graph.head()

    outputs = OnnxEngine(model, buckets=(1, 64)).run(0, photos(64))

    energy = energy_score(outputs.logits, head.energy_temperature)
    distance, nearest = mahalanobis_score(
        outputs.features, head.centre, head.whitening, head.means, normalise=head.normalise
    )
    # The guaranteed precision of float32: relative, and for energy at least absolute.
    assert np.abs(outputs.scores[:, 0] - energy).max() <= 1e-5 * np.abs(energy).max()
    assert np.abs(outputs.scores[:, 1] / distance - 1).max() <= 1e-5
    assert np.array_equal(outputs.nearest_class, nearest)
    assert len(set(nearest.tolist())) > 1


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_frames_get_finite_scores(model: Path, value: int) -> None:
    frame = Pixels(np.full((SIDE, SIDE, 3), value, np.uint8))

    assert OnnxEngine(model).run(0, [frame]).all_finite() == [True]


def test_a_larger_batch_s_pixels_do_not_leak_into_a_smaller_one(
    model: Path,
) -> None:
    engine, images = OnnxEngine(model, buckets=(1, 4, 8)), photos(8)
    before = engine.run(0, images[:3])

    engine.run(0, [images[7]] * 8)

    assert np.array_equal(engine.run(0, images[:3]).logits, before.logits)


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_batches_that_are_not_kept_need_no_memory(model: Path) -> None:
    engine = OnnxEngine(model, buckets=(1, 512), slots=2)
    engine.run(0, photos(1))
    before = allocated_bytes()
    engine.run(1, photos(1) * 512)
    grown = allocated_bytes() - before

    engine.keep(1)

    assert grown > 1 << 20
    assert allocated_bytes() - before < grown / 4
    assert engine.max_batch_size == 1
    assert engine.run(1, photos(1)).all_finite() == [True]


def allocated_bytes() -> int:
    """Return how much this process has allocated from glibc."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = MallInfo
    found = libc.mallinfo2()
    return int(found.uordblks + found.hblkhd)


class MallInfo(ctypes.Structure):
    """struct mallinfo2."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def test_buckets_may_be_given_in_any_order(model: Path) -> None:
    engine = OnnxEngine(model, buckets=(4, 1, 2))

    assert engine.max_batch_size == 4
    assert engine.run(0, photos(3)).logits.shape == (3, tiny_graph.CLASSES)


def test_the_engine_reports_its_input_size(model: Path) -> None:
    assert OnnxEngine(model).input_size == (SIDE, SIDE)


def test_pixels_of_another_size_are_an_error(model: Path) -> None:
    small = Pixels(np.zeros((SIDE - 1, SIDE, 3), np.uint8))

    with pytest.raises(Exception, match=r"(?i)dimension"):
        OnnxEngine(model).run(0, [small])
    with pytest.raises(ValueError, match="broadcast"):
        OnnxEngine(model, buckets=(1, 2)).run(0, [small, small])


def test_the_engine_info_describes_the_loaded_session(model: Path) -> None:
    info = OnnxEngine(model, threads_per_slot=2).info

    assert (info.name, info.device, info.precision) == ("onnx-cpu", "cpu", "fp32")
    assert info.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert info.threads_per_slot == 2


@without_cuda
def test_a_provider_that_is_not_installed_stops_the_start(model: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"onnx-cuda needs .*CUDA.*CPUExecutionProvider"):
        open_session(model, "onnx-cuda", [("CUDAExecutionProvider", {})], {})


BROKEN = {
    "empty": b"",
    "text": b"not a model",
    "half a model": tiny_graph.sealed()[: len(tiny_graph.sealed()) // 2],
    "noise": np.random.default_rng(0).bytes(4000),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=list(BROKEN))
def test_a_corrupt_model_is_rejected_with_its_name(tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(content)

    with pytest.raises(EngineUnavailable, match=r"onnx-cpu cannot load .*model\.onnx"):
        OnnxEngine(model)


def test_a_missing_model_is_rejected_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"cannot load .*model\.onnx"):
        OnnxEngine(tmp_path / "model.onnx")
