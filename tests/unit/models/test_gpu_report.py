"""The GPU report on a named fake of CUDA around the real ONNX Runtime: its parts, no numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.__main__ import main
from models.demo.spec import PHOTOS
from models.gpu_report import facts, report, suite
from models.gpu_report.measure import Effort
from service.engines.cuda.base import Cuda, Device
from service.engines.device import Program
from service.engines.gpu import GpuConfig, Wanted
from service.engines.onnx_gpu import OnnxGpuProgram
from service.engines.onnx_session import Provider
from service.errors import EngineUnavailable
from tests.fake_cuda import FakeCuda
from tests.unit.bundle.tiny_bundle import put, sound_files

QUICK = Effort(runs=3, warm_up=1, seconds=0.02, plateau=20)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in PHOTOS[:3]:
        Image.open(path).convert("RGB").save(folder / f"{path.stem}.jpg")
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return put(tmp_path / "tiny" / "1", sound_files())


@pytest.fixture
def on_a_fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    cuda = FakeCuda()

    def program(
        wanted: Wanted, config: GpuConfig, cuda: Cuda, device: Device
    ) -> tuple[Program, str]:
        if wanted.engine != "onnx-cuda":
            raise EngineUnavailable(f"{wanted.engine} is not faked")
        cpu: list[Provider] = [("CPUExecutionProvider", {})]
        return OnnxGpuProgram(wanted.model, "onnx-cpu", cpu, device, memory="cpu"), "fake 1"

    monkeypatch.setattr(report, "open_cuda", lambda binding: cuda)
    monkeypatch.setattr(report, "open_program_for", program)
    monkeypatch.setattr("service.engines.warm._TRIAL_S", 0.0005)
    yield cuda
    assert all(device.closed for device in cuda.made)


def plan(bundle: Path, photos: Path, **changed: Any) -> report.Plan:
    chosen: dict[str, Any] = {
        "bundles": [bundle],
        "engines": ["tensorrt", "onnx-cuda"],
        "precisions": ["fp32"],
        "photos": photos,
        "max_batch_size": 4,
        "gpu": GpuConfig(),
        "effort": QUICK,
        "tests": False,
        "over_http": False,
    }
    return report.Plan(**{**chosen, **changed})


@pytest.mark.usefixtures("on_a_fake_gpu")
def test_a_report_says_what_ran_what_did_not_and_why(bundle: Path, photos: Path) -> None:
    kept: list[str] = []

    made = report.make(plan(bundle, photos), lambda so_far: kept.append(json.dumps(so_far)))

    (measured,) = json.loads(json.dumps(made["engines"]))
    assert measured["info"]["device"] == "cuda:0 Fake GPU"
    same = measured["parity"]["against_the_same_graph_on_the_cpu"]
    assert same["images"] == 3 + 64
    assert same["logits"] < 1e-5
    assert same["flips"] == same["other_class"] == 0
    assert [bucket["images"] for bucket in measured["buckets"]] == [1, 2, 4]
    assert set(measured["buckets"][0]["parts_ms"]) == {"copy_in", "compute", "copy_out"}
    assert set(measured["slots"]["of_bare_loop"]) == {"1", "2", "3"}
    assert measured["slots"]["of_one_slot"]["1"] == 1
    assert measured["overlap"]["slots"] == 3
    assert measured["memory"]["early_bytes"] == measured["memory"]["late_bytes"]
    assert measured["road"]["from_jpeg"]["images_per_s"] > 0
    assert 0 < measured["road"]["from_jpeg"]["decode_share"] <= 1.1
    assert made["not_run"] == ["tiny in fp32 on tensorrt: tensorrt is not faked"]
    assert len(kept) == 2
    assert any("onnxruntime" in name for name in made["libraries"])  # type: ignore[attr-defined]


@pytest.mark.usefixtures("on_a_fake_gpu")
def test_fp16_is_the_bundles_backbone_behind_its_own_gate(bundle: Path, photos: Path) -> None:
    made = report.make(
        plan(bundle, photos, engines=["onnx-cuda"], precisions=["fp16", "int8"]),
        lambda so_far: None,
    )

    (measured,) = json.loads(json.dumps(made["engines"]))
    sealed = measured["parity"]["against_the_sealed_graph_on_the_cpu"]
    assert 0 < sealed["logits"] < 2e-2
    assert made["not_run"] == ["tiny in int8 on onnx-cuda: the bundle is in fp32"]


def test_without_a_gpu_the_command_stops_and_writes_nothing(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(report, "open_cuda", lambda binding: FakeCuda(devices=0))
    out = tmp_path / "report.json"

    assert main(["gpu-report", "--photos", str(photos), "--out", str(out)]) == 1

    assert "There is no GPU to use" in capsys.readouterr().err
    assert not out.exists()


def test_without_photographs_the_command_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gpu-report", "--photos", str(tmp_path)]) == 1
    assert "no JPEG file" in capsys.readouterr().err


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    out = tmp_path / "results" / "gpu.json"

    report.write(out, {"a": 1})
    report.write(out, {"a": 2})

    assert json.loads(out.read_text()) == {"a": 2}
    assert [path.name for path in out.parent.iterdir()] == ["gpu.json"]


def test_facts_name_the_commit_and_the_packages_that_do_the_work() -> None:
    known = facts.before(["gpu-report"])

    assert known["command"] == "gpu-report"
    assert "numpy" in known["packages"]  # type: ignore[operator]
    assert known["cores"]


def test_only_libraries_of_cuda_and_the_runtimes_are_named(tmp_path: Path) -> None:
    ours, other = tmp_path / "libcudart.so.13", tmp_path / "libz.so.1"
    for file in (ours, other):
        file.write_bytes(b"x")
    maps = tmp_path / "maps"
    maps.write_text("".join(f"7f00-7f01 r-xp 0 00:00 1    {file}\n" for file in (ours, other)))

    assert list(facts.loaded_libraries(maps)) == ["libcudart.so.13"]


def test_the_tests_outcome_is_read_with_what_was_skipped(tmp_path: Path) -> None:
    results = tmp_path / "results.xml"
    results.write_text(
        '<testsuites><testsuite><testcase classname="a" name="one"/>'
        '<testcase classname="a" name="two"><skipped message="no TensorRT"/></testcase>'
        '<testcase classname="a" name="three"><failure message="wrong"/></testcase>'
        "</testsuite></testsuites>"
    )

    assert suite.counts(results) == {
        "passed": 1,
        "skipped": 1,
        "failure": 1,
        "not_passed": {"a::two": "no TensorRT", "a::three": "wrong"},
    }
