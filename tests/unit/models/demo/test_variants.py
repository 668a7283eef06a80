"""The demo in bf16 and int8: its own calibration, its card, and the machines that refuse it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.server import running
from tidegate.models.demo import calibration_file
from tidegate.models.demo.build import build
from tidegate.models.demo.source import Wheel
from tidegate.models.demo.spec import NAME, PREPROCESS
from tidegate.models.errors import BuildRefused
from tidegate.models.probes.photographs import PHOTOS
from tidegate.models.sealing.check import run
from tidegate.service.bundle.manifest import Precision
from tidegate.service.bundle.store import Bundle
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.openvino import runtime
from tidegate.service.errors import BundleRefused
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.startup import prepare

pytestmark = pytest.mark.process

PRECISIONS = pytest.mark.parametrize(
    "precision",
    [
        pytest.param("bf16", marks=pytest.mark.openvino),
        pytest.param("int8", marks=pytest.mark.slow),
    ],
)


@PRECISIONS
def test_a_variant_has_its_own_calibration_and_answers_like_fp32(
    tmp_path: Path, precision: Precision, demo: Bundle, wheel: Wheel
) -> None:
    bundle = build(tmp_path, wheel.path, precision)

    pixels = [preprocess(path.read_bytes(), PREPROCESS, 10**8) for path in PHOTOS]
    classes, decisions = [], []
    for each in (demo, bundle):
        outputs = run(each.model_path.read_bytes(), pixels)
        classes.append(outputs.logits.argmax(axis=1))
        decisions.append([each.gate.judge(scores, 0).decision for scores in outputs.scores])
    assert bundle.manifest.name == f"{NAME}-{precision}"
    assert bundle.manifest.precision == precision
    assert bundle.manifest.gate != demo.manifest.gate
    assert np.mean(classes[0] == classes[1]) >= 0.8
    assert decisions[0] == decisions[1]
    assert f"## {precision} against fp32" in (bundle.path / "MODEL_CARD.md").read_text("utf-8")
    assert build(tmp_path, wheel.path, precision).digest == bundle.digest


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_variant_is_close_to_fp32_on_photographs(precision: Precision) -> None:
    exact, variant = (calibration_file.load(each).report for each in ("fp32", precision))

    assert variant["splits"] == exact["splits"]
    assert variant["against_fp32"]["agreement"] > 0.9
    assert variant["uniformity"]["share_at_or_below"]["0.01"] < 0.02


@pytest.mark.openvino
def test_a_bundle_in_bf16_is_served_and_says_so(tmp_path: Path, wheel: Wheel) -> None:
    bundle = build(tmp_path, wheel.path, "bf16")

    with running(bundle.path) as server, httpx.Client(base_url=server.url) as client:
        engine = client.get(f"/models/{bundle.manifest.name}").json()["engine"]
        metrics = client.get("/metrics").text
        photo = PHOTOS[0].read_bytes()
        answer = client.post("/classify", content=photo, headers={"Content-Type": "image/png"})

    assert (engine["name"], engine["precision"], engine["device"]) == ("openvino", "bf16", "cpu")
    assert engine["instructions"].endswith("bf16")
    assert f'instructions="{engine["instructions"]}"' in metrics
    assert answer.status_code in (200, 422)


@pytest.mark.openvino
def test_int8_for_onnx_runtime_is_refused_on_openvino_with_what_to_do(
    tmp_path: Path, wheel: Wheel
) -> None:
    bundle = build(tmp_path, wheel.path, "int8")

    with pytest.raises(BundleRefused, match=r"differ by .*set TIDEGATE_ENGINE=onnx-cpu"):
        prepare(
            bundle.path,
            None,
            EngineConfig("openvino", slots=1, threads_per_slot=1, max_batch_size=1),
        )


def test_a_machine_without_openvino_is_told_what_to_install(
    tmp_path: Path, wheel: Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it raises ImportError
    runtime.core.cache_clear()

    with pytest.raises(BuildRefused, match=r"pip install 'tidegate\[openvino\]'"):
        build(tmp_path, wheel.path, "bf16")

    assert list(tmp_path.iterdir()) == []


def test_the_activations_of_int8_are_read_back() -> None:
    calibration = calibration_file.load("int8")
    seen = calibration.activations

    assert seen is not None
    assert seen.images == json.loads(calibration.report_file())["splits"]["fit"]["photographs"]
    assert len(seen.means) == 50
    assert all(low < high for low, high in seen.ranges.values())
