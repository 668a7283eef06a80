"""The pipeline from image folders to a sealed bundle, and to an answer of the service."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from tests.server import PATIENCE_S, ROOT, running
from tests.unit.models.colour_folders import COLOURS, LABELS, folders, imported
from tidegate.models.build_request import BuildOptions, Data
from tidegate.models.data.folders import images_by_class
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting import coverage_floor, synthetic_ood
from tidegate.models.fitting.conformal import GateTarget
from tidegate.models.fitting.fit import FitOptions
from tidegate.models.fitting.mahalanobis import DistanceOptions
from tidegate.models.pipeline import make
from tidegate.models.sealing.unseal import unseal
from tidegate.service.bundle.golden import check_golden
from tidegate.service.bundle.store import Bundle, open_bundle
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.errors import BundleRefused
from tidegate.service.startup import prepare

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("drawn_once")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return folders(tmp_path_factory.mktemp("images"))


TARGET = GateTarget(0.05, 0.1)
RAW = FitOptions(DistanceOptions(normalise=False), TARGET)


def choices(**changes: Any) -> BuildOptions:
    given = BuildOptions("colours", "1", "a test", FitOptions(target=TARGET))
    return replace(given, **changes)


@pytest.fixture(scope="module")
def bundle(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make(imported(), data, choices(), tmp_path_factory.mktemp("bundles"))


def test_the_bundle_records_its_sources_and_its_evaluation(bundle: Bundle) -> None:
    manifest = bundle.manifest
    evaluation = manifest.evaluation

    assert bundle.labels == LABELS
    assert evaluation is not None
    assert evaluation.images == 100
    assert evaluation.accuracy.value > 0.9
    assert evaluation.ood[0].name == "purple"
    assert evaluation.ood[0].rejected.value > 0.9
    assert manifest.calibration.fitted
    assert manifest.calibration.samples == 300
    assert (manifest.gate.fold_a, manifest.gate.fold_b) == (120, 120)
    assert manifest.gate.mahalanobis.samples == 100
    splits = {"train", "selection", "fold_a", "fold_b", "test", "purple"}
    assert manifest.gate.splits.keys() == splits
    assert len(set(manifest.gate.splits.values())) == len(splits)
    assert manifest.reference.samples == 240
    assert {"confidence", "energy", "mahalanobis", "brightness", "blur", "aspect"} <= (
        manifest.reference.histograms.keys()
    )
    assert all(sum(h.counts) == 240 for h in manifest.reference.histograms.values())
    card = (bundle.path / "MODEL_CARD.md").read_text("utf-8")
    assert "accuracy" in card
    assert all((bundle.path / name).exists() for name in ("card/reliability.svg",))


def test_the_same_folders_give_the_same_bundle(bundle: Bundle, data: Data, tmp_path: Path) -> None:
    assert make(imported(), data, choices(), tmp_path).digest == bundle.digest


@pytest.mark.usefixtures("fake_plots")
def test_a_bundle_is_replaced_only_on_request(bundle: Bundle, data: Data, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "colours/1")

    with pytest.raises(BuildRefused, match="choose another --version"):
        make(imported(), data, choices(), tmp_path)

    again = make(imported(), data, choices(replace=True, fit=RAW), tmp_path)
    assert again.manifest.gate.mahalanobis.features == "raw"


def test_the_service_answers_with_it(bundle: Bundle, data: Data) -> None:
    red = images_by_class(data.test, LABELS)["red"][0].read_bytes()
    purple = next(data.ood["purple"].iterdir()).read_bytes()

    with running(bundle.path) as server:
        usual = httpx.post(f"{server.url}/classify", content=red, timeout=PATIENCE_S)
        unusual = httpx.post(f"{server.url}/classify", content=purple, timeout=PATIENCE_S)
        described = httpx.get(f"{server.url}/models/colours", timeout=PATIENCE_S).json()

    assert usual.status_code == 200, usual.text
    assert usual.json()["predictions"][0]["label"] == "red"
    assert unusual.status_code == 422
    assert unusual.json()["code"] == "out-of-distribution"
    assert described["gate"]["mahalanobis"]["means"] == "class-means"
    assert described["parity"] is None
    assert described["coverage"]["synthetic"]["caught"]["images"] > 500


def test_what_the_gate_catches_is_sealed_and_in_the_card(bundle: Bundle) -> None:
    found = bundle.manifest.coverage
    card = (bundle.path / "MODEL_CARD.md").read_text("utf-8")

    assert found is not None
    assert {kind.name for kind in found.kinds} == {*synthetic_ood.KINDS, synthetic_ood.SHUFFLED}
    assert found.groups["documents"].caught.value > 0.9  # no colour that the network knows
    assert found.left_out_classes is not None
    assert found.left_out_classes.groups == len(COLOURS)
    assert found.left_out_classes.caught.value > 0.9
    assert not found.accepted_although_weak
    assert "## What the gate catches" in card


@pytest.mark.usefixtures("fake_plots")
def test_a_gate_that_catches_too_little_is_not_sealed_unless_accepted(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage_floor, "_ABOVE_CHANCE", 0.9)

    with pytest.raises(BuildRefused, match="--accept-weak-gate"):
        make(imported(), data, choices(), tmp_path)
    assert not (tmp_path / "colours/1").exists()

    accepted = make(imported(), data, choices(accept_weak_gate=True), tmp_path)
    assert accepted.manifest.coverage is not None
    assert accepted.manifest.coverage.accepted_although_weak


@pytest.mark.usefixtures("fake_plots")
@pytest.mark.parametrize(
    "options",
    [
        RAW,
        FitOptions(DistanceOptions(relative=True), TARGET),
        FitOptions(target=GateTarget(0.05, 0.1, delta=0.1)),
    ],
    ids=["raw", "relative", "pac"],
)
def test_every_kind_of_gate_is_sealed_and_probed(
    data: Data, tmp_path: Path, options: FitOptions
) -> None:
    made = make(imported(), data, choices(fit=options), tmp_path)

    assert made.manifest.gate.guarantee == ("marginal" if options.target.delta is None else "pac")
    engine = OnnxEngine(made.model_path)
    assert check_golden(made, lambda images: engine.run(0, images)) >= 10


@pytest.mark.usefixtures("fake_plots")
def test_classes_with_enough_images_get_their_own_threshold(tmp_path: Path) -> None:
    made = make(
        imported(), folders(tmp_path / "images", calibrate=150), choices(), tmp_path / "bundles"
    )

    assert made.manifest.gate.own_threshold == (0, 1, 2, 3, 4)
    assert open_bundle(made.path).gate.own_folds_b.keys() == {0, 1, 2, 3, 4}


def with_a_convolution(backbone: onnx.ModelProto) -> onnx.ModelProto:
    """Return a network that begins with a convolution which changes nothing."""
    graph = backbone.graph
    entry = graph.input[0].name
    for node in graph.node:
        node.input[:] = ["convolved" if name == entry else name for name in node.input]
    kernel = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    graph.initializer.append(numpy_helper.from_array(kernel, "identity"))
    graph.node.insert(0, helper.make_node("Conv", [entry, "identity"], ["convolved"]))
    return backbone


@pytest.mark.usefixtures("fake_plots")
@pytest.mark.parametrize(
    ("precision", "int8_for", "engine"),
    [
        ("fp16", "cpu", "onnx-cpu"),
        ("int8", "cpu", "onnx-cpu"),
        pytest.param("int8", "openvino", "openvino", marks=pytest.mark.openvino),
        pytest.param("bf16", "cpu", "openvino", marks=pytest.mark.openvino),
    ],
)
def test_a_variant_is_fitted_with_itself_and_compared_with_fp32(
    data: Data, tmp_path: Path, precision: Any, int8_for: Any, engine: str
) -> None:
    model = imported(backbone=with_a_convolution(imported().backbone))
    chosen = choices(precision=precision, int8_for=int8_for, max_drop=5.0)

    made = make(model, data, chosen, tmp_path)

    comparison = made.manifest.comparison
    assert made.manifest.precision == precision
    assert comparison is not None
    assert comparison.agreement > 0.9
    assert comparison.auroc_change.keys() == {"purple"}
    card = (made.path / "MODEL_CARD.md").read_text("utf-8")
    assert f"{precision} against fp32" in card
    assert (
        f"backbone in {precision}, fitted, calibrated and evaluated with the engine `{engine}`"
        in (card)
    )
    assert made.manifest.gate.calibrated_for_engine == (int8_for if int8_for != "cpu" else None)
    one = EngineConfig(slots=1, threads_per_slot=1, max_batch_size=1)
    warm = prepare(made.path, None, one).warm
    assert (warm.engine.info.name, warm.engine.info.precision) == (engine, precision)
    assert re.search(r"rejected although in-distribution \| [+−-]?[\d.]+ points", card)


def test_a_variant_that_loses_too_much_is_not_sealed(data: Data, tmp_path: Path) -> None:
    with pytest.raises(BuildRefused, match=r"In int8, .* more than --max-drop -50 allows"):
        make(imported(), data, choices(precision="int8", max_drop=-50.0), tmp_path)

    assert not (tmp_path / "colours/1").exists()


@pytest.mark.usefixtures("fake_plots")
def test_another_gate_is_fitted_on_the_model_of_a_bundle(bundle: Bundle, data: Data) -> None:
    sealed = bundle.model_path.read_bytes()
    backbone = unseal(sealed)

    refitted = make(
        imported(backbone=backbone, labels=bundle.labels),
        data,
        choices(version="2"),
        bundle.path.parent.parent,
    )

    assert refitted.model_path.read_bytes() == sealed
    assert [value.name for value in backbone.graph.output] == ["logits", "features"]


def test_a_graph_that_was_not_sealed_here_is_not_unsealed() -> None:
    with pytest.raises(BuildRefused, match="not sealed by Tidegate"):
        unseal(imported().backbone.SerializeToString())


def without(folder: Path, split: str, label: str) -> None:
    shutil.rmtree(folder / split / label)


def keep(folder: Path, split: str, label: str, n: int) -> None:
    for path in sorted((folder / split / label).iterdir())[n:]:
        path.unlink()


def few_to_calibrate_on(folder: Path) -> None:
    for label in COLOURS:
        keep(folder, "calibrate", label, 8)


def leak(folder: Path) -> None:
    shutil.copy(folder / "train/red/0.png", folder / "test/red/leaked.png")


def leak_encoded_again(folder: Path, split: str) -> None:
    with Image.open(folder / "train/red/0.png") as image:
        image.save(folder / split / "red/again.bmp")


def break_images(folder: Path) -> None:
    for path in sorted((folder / "train/red").iterdir())[:5]:
        path.write_bytes(b"no image")
        path.write_bytes(path.read_bytes() + path.name.encode())


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a class without training images": (
        lambda f: without(f, "train", "red"),
        "has a folder .red., which is not a class of the model",
    ),
    "too few of a class": (lambda f: keep(f, "train", "red", 4), "such as 'red'"),
    "too few to calibrate on": (
        few_to_calibrate_on,
        r"needs 19 images in each calibration fold; there are 16 and 16\. Give 49",
    ),
    "an image in two splits": (leak, r"0\.png \(train\) and .*leaked\.png \(test\)"),
    "calibration pixels of a training image": (
        lambda f: leak_encoded_again(f, "calibrate"),
        r"0\.png \(train\) and .*again\.bmp \(calibrate\) have the same pixels",
    ),
    "test pixels of a training image": (
        lambda f: leak_encoded_again(f, "test"),
        r"0\.png \(train\) and .*again\.bmp \(test\) have the same pixels",
    ),
    "many files that are no images": (break_images, r"5 of 100 files of train cannot be decoded"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=list(REFUSED))
def test_data_that_cannot_support_a_bundle_is_refused(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    data = folders(tmp_path / "images")
    change(tmp_path / "images")

    with pytest.raises(BuildRefused, match=message):
        make(imported(), data, choices(), tmp_path / "bundles")

    assert not (tmp_path / "bundles/colours/1").exists()


def test_an_export_that_is_not_the_trained_model_is_refused(data: Data, tmp_path: Path) -> None:
    def other(images: Any) -> Any:
        return np.ones((len(images), 5), np.float32)

    with pytest.raises(BuildRefused, match="the export does not equal the trained model"):
        make(imported(forward=other), data, choices(), tmp_path)


def test_a_model_that_mixes_the_images_of_a_batch_is_refused(data: Data, tmp_path: Path) -> None:
    mixing = imported().backbone
    last = mixing.graph.node[-1]
    last.output[0] = "alone"
    mixing.graph.node.extend(
        [
            onnx.helper.make_node("ReduceMean", ["alone"], ["together"], axes=[0], keepdims=1),
            onnx.helper.make_node("Sub", ["alone", "together"], ["logits"]),
        ]
    )

    with pytest.raises(BuildRefused, match="mixes the images of a batch"):
        make(imported(backbone=mixing), data, choices(), tmp_path)


@pytest.mark.usefixtures("fake_plots")
def test_overridden_rules_are_in_the_card(data: Data, tmp_path: Path) -> None:
    made = make(imported(), data, choices(overrides={"alpha": "drop"}), tmp_path)

    assert made.manifest.preprocess.alpha == "drop"
    assert "overridden with drop; training used composite-white" in (
        made.path / "MODEL_CARD.md"
    ).read_text("utf-8")


def test_any_flipped_byte_of_a_made_bundle_is_refused_with_the_file_s_name(
    bundle: Bundle, tmp_path: Path
) -> None:
    copy = shutil.copytree(bundle.path, tmp_path / "copy")
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    rng = random.Random(0)  # noqa: S311 - which bytes are flipped is no secret
    for path in files:
        whole = path.read_bytes()
        for place in {0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(4))}:
            changed = bytearray(whole)
            changed[place] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            with pytest.raises(BundleRefused, match=path.name.replace(".", r"\.")):
                open_bundle(copy)
        path.write_bytes(whole)
    assert open_bundle(copy).digest == bundle.digest


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_builds_killed_at_50_random_moments_leave_a_good_bundle_or_none(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.models.killed_maker", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=3600,
    )

    found = json.loads(done.stdout)

    assert len(found) == 50
    assert sum(not lived for lived, _ in found) >= 30
    assert {state for _, state in found} <= {"good", "none"}
