"""Which engines on the CPU may serve a bundle, and what a user is told about the others."""

from __future__ import annotations

import pytest

from tidegate.service.engines import cpu_engines
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.cpu_engines import calibrated_on, check_precision, engines_for
from tidegate.service.engines.openvino import runtime
from tidegate.service.errors import EngineUnavailable


def names(engine: str, precision: str) -> list[str]:
    return [each.name for each in engines_for(engine, precision)]


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_engines, "find_spec", lambda name: None)


@pytest.fixture
def with_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_engines, "find_spec", lambda name: object())
    monkeypatch.setattr(runtime, "check_device", lambda device, precision: None)


@pytest.mark.usefixtures("without_openvino")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_without_openvino_auto_is_onnx_runtime(precision: str) -> None:
    assert names("auto", precision) == ["onnx-cpu"]


@pytest.mark.usefixtures("with_openvino")
@pytest.mark.parametrize(
    ("precision", "engines"),
    [
        ("fp32", ["openvino", "onnx-cpu"]),
        ("bf16", ["openvino"]),
        ("fp16", ["onnx-cpu"]),
        ("int8", ["onnx-cpu"]),
    ],
)
def test_auto_compares_the_engines_that_give_the_calibrated_numbers(
    precision: str, engines: list[str]
) -> None:
    assert names("auto", precision) == engines


def test_auto_leaves_out_an_engine_that_cannot_compute_here(
    with_openvino: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(device: str, precision: str) -> None:
        raise EngineUnavailable("no such instructions")

    monkeypatch.setattr(runtime, "check_device", refuse)

    assert names("auto", "fp32") == ["onnx-cpu"]


def test_a_named_engine_is_not_compared_with_others() -> None:
    assert names("openvino", "fp32") == ["openvino"]
    assert names("onnx-cpu", "fp32") == ["onnx-cpu"]


@pytest.mark.parametrize("engine", ["onnx-cpu", "onnx-cuda", "tensorrt"])
def test_an_engine_without_bf16_names_the_one_that_has_it(engine: str) -> None:
    with pytest.raises(EngineUnavailable, match=rf"{engine}.*set TIDEGATE_ENGINE=openvino"):
        check_precision(engine, "bf16")


def test_openvino_names_the_engine_for_fp16() -> None:
    with pytest.raises(EngineUnavailable, match=r"fp16.*openvino.*set TIDEGATE_ENGINE=onnx-cpu"):
        check_precision("openvino", "fp16")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_openvino_on_another_device_serves_what_gpus_serve(precision: str) -> None:
    check_precision("openvino", precision, "GPU")


def test_openvino_on_another_device_names_the_one_for_bf16() -> None:
    with pytest.raises(EngineUnavailable, match=r"bf16.*set TIDEGATE_OPENVINO_DEVICE=CPU"):
        check_precision("openvino", "bf16", "NPU")


@pytest.mark.parametrize(
    ("precision", "named", "engine"),
    [
        ("fp32", None, "onnx-cpu"),
        ("fp16", None, "onnx-cpu"),
        ("bf16", None, "openvino"),
        ("int8", None, "onnx-cpu"),
        ("int8", "openvino", "openvino"),
    ],
)
def test_a_bundle_is_calibrated_on_the_engine_that_serves_it(
    precision: str, named: str | None, engine: str
) -> None:
    assert calibrated_on(precision, named).name == engine


def test_a_bundle_that_is_calibrated_for_an_engine_is_served_by_it() -> None:
    assert EngineConfig("auto").for_calibration("openvino").name == "openvino"
    assert EngineConfig("openvino").for_calibration("openvino").name == "openvino"
    assert EngineConfig("onnx-cpu").for_calibration(None).name == "onnx-cpu"
