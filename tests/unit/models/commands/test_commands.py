"""The command line: from files on disk to a bundle, and an explanation for every error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from tests.unit.models import tiny
from tests.unit.models.colour_folders import LABELS, backbone, folders
from tidegate.models.benchmarks.gates import probe
from tidegate.models.benchmarks.gates.measure import CAUGHT, measure
from tidegate.models.benchmarks.gates.report import figures, tables
from tidegate.models.build_request import Data
from tidegate.models.commands import fitting as fitting_options
from tidegate.models.commands import import_model
from tidegate.models.data import training_data
from tidegate.models.data.folders import images_by_class
from tidegate.models.data.training_data import SPLITS, Labelled, TrainingData
from tidegate.models.importers.torch_runtime import require
from tidegate.models.probes.photographs import PHOTOS
from tidegate.service.bundle.store import open_bundle
from tidegate.service.cli import main

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("drawn_once")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return folders(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plain ONNX graph, its spec and its labels."""
    folder = tmp_path_factory.mktemp("source")
    model = backbone()
    del model.graph.output[1]  # a plain graph shows no features
    onnx.save(model, folder / "colours.onnx")
    (folder / "spec.json").write_text(tiny.SPEC.model_dump_json())
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    return folder


def fitting(data: Data, out: Path, *more: str) -> list[str]:
    """Return the options both commands share."""
    words = ["--train", data.train, "--calibrate", data.calibrate, "--test", data.test]
    words += ["--ood", f"purple={data.ood['purple']}", "--name", "colours", "--version", "1"]
    words += ["--alpha-reject", "0.05", "--alpha-review", "0.1", "--out", out, *more]
    return list(map(str, words))


def importing(source: Path, data: Data, out: Path, *more: str) -> list[str]:
    words = ["import", f"onnx:{source / 'colours.onnx'}", "--spec", str(source / "spec.json")]
    return [*words, *fitting(data, out, *more)]


def listed(data: Data, file: Path) -> Path:
    """Write a file that lists the images of the three folders."""
    images = {
        split: [
            Labelled(path, LABELS.index(label))
            for label, paths in images_by_class(data.labelled[split], LABELS).items()
            for path in paths
        ]
        for split in SPLITS
    }
    training_data.write(file, file.parent, TrainingData.of(LABELS, images), {})
    return file


def test_an_onnx_file_is_imported_and_fitted_again(
    source: Path, data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, licence = str(source / "labels.txt"), "CC-BY-4.0"
    words = importing(source, data, tmp_path, "--labels", labels, "--licence", licence)
    words += ["--exif", "ignore"]

    assert main(words) == 0

    first = open_bundle(tmp_path / "colours/1")
    assert capsys.readouterr().out.strip() == str(first.path)
    assert first.labels == LABELS
    assert first.manifest.provenance.licence == licence
    assert str(source) not in json.dumps(first.manifest.model_dump(mode="json"))
    assert first.manifest.preprocess.exif_orientation == "ignore"

    words = fitting(data, tmp_path, "--distance", "raw", "--pac", "0.3", "--replace")
    words = ["--splits", str(listed(data, tmp_path / "splits.json")), *words[6:]]
    assert main(["fit", str(first.path), *words]) == 0

    second = open_bundle(tmp_path / "colours/1")
    assert second.manifest.gate.mahalanobis.features == "raw"
    assert second.manifest.gate.guarantee_delta == 0.3
    assert first.digest in second.manifest.provenance.recipe
    digests = [bundle.manifest.gate.splits["train"] for bundle in (first, second)]
    assert digests[0] == digests[1]


MISTAKES = {
    "an unknown source": (["import", "caffe:x"], "Unknown source 'caffe:x': use one of timm:…"),
    "no spec": (["import", "onnx:x.onnx"], "give --spec FILE.json"),
    "an option of another source": (
        ["import", "onnx:x.onnx", "--size", "96"],
        "--size is for timm, not for onnx",
    ),
    "a model that is not there": (
        ["import", "onnx:missing.onnx", "--spec", "missing.json"],
        "missing",
    ),
    "a set without a name": (["import", "onnx:x", "--ood", "data/dtd"], "give NAME=DIR"),
    "an alpha of 2": (["import", "onnx:x", "--alpha-reject", "2"], "give a number in (0, 1)"),
    "alphas in the wrong order": (
        ["import", "onnx:x", "--alpha-reject", "0.2"],
        "must not be above --alpha-review",
    ),
    "a set called like a split": (
        ["import", "onnx:{source}", "--ood", "test={out}"],
        "are reserved",
    ),
    "a set called like a path": (
        ["import", "onnx:{source}", "--ood", "../x={out}"],
        "must not be a path",
    ),
    "folders and a list of images": (
        ["import", "onnx:{source}", "--splits", "splits.json"],
        "Give --splits FILE or --train, --calibrate and --test, not both.",
    ),
    "a name with capitals": (["import", "onnx:{source}", "--name", "Parts"], "lower-case letters"),
    "a version like a path": (
        ["import", "onnx:{source}", "--version", "../1"],
        "lower-case letters",
    ),
    "no bundle to fit": (["fit", "missing"], "no bundle folder at missing"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_wrong_argument_gets_an_explanation_and_exit_code_1(
    words: list[str],
    message: str,
    source: Path,
    data: Data,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = fitting(
        data, tmp_path, *(["--spec", str(source / "spec.json")] if "onnx:{source}" in words else [])
    )
    words = [w.format(source=source / "colours.onnx", out=tmp_path) for w in words]
    for option in {"--alpha-reject"} & set(words):
        del given[given.index(option) : given.index(option) + 2]

    code = main([words[0], *words[1:2], *given, *words[2:]])

    assert code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "colours/1").exists()


def test_a_split_that_is_not_given_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "bundle", "--train", "images", "--name", "parts", "--version", "1"]

    assert main(words) == 1

    assert "Give --calibrate, --test, or --splits FILE" in capsys.readouterr().err


def test_a_weak_gate_is_accepted_only_by_its_option(source: Path, data: Data) -> None:
    words = importing(source, data, Path("bundles"))[1:]
    plain, accepting = (
        fitting_options.build_options(import_model.parser().parse_args(given), "a test")
        for given in (words, [*words, "--accept-weak-gate"])
    )

    assert not plain.accept_weak_gate
    assert accepting.accept_weak_gate


def test_labels_that_do_not_fit_are_refused(
    source: Path, data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_bytes(b"na\xefve\n")
    binary = importing(source, data, tmp_path, "--labels", str(tmp_path / "labels.txt"))
    assert main(binary) == 1
    assert "is not UTF-8 text" in capsys.readouterr().err

    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    assert main(binary) == 1
    assert "'blue', which is not a class of the model (one, two)" in capsys.readouterr().err

    (tmp_path / "labels.txt").write_bytes("\n".join(("pink", *LABELS[:-1])).encode("utf-8-sig"))
    assert main(binary) == 1
    assert "a class of the model (pink, " in capsys.readouterr().err  # without an invisible mark


@pytest.mark.usefixtures("fake_plots")
def test_repeated_labels_are_distinguished_by_folders_named_by_id(
    source: Path, tmp_path: Path
) -> None:
    data = folders(tmp_path / "images")
    for split in data.labelled:
        for index, label in enumerate(LABELS):
            images = tmp_path / "images" / split
            (images / label).rename(images / str(index))
    (tmp_path / "labels.txt").write_text("dull\nbright\ndull\nbright\nbright\n")

    words = importing(source, data, tmp_path, "--labels", str(tmp_path / "labels.txt"))

    assert main(words) == 0
    assert open_bundle(tmp_path / "colours/1").labels[2] == "dull"


def test_the_gate_s_cost_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate-cost", "--features", "16", "--classes", "4", "--rank", "8"]) == 0

    assert capsys.readouterr().out.count("per image") == 21


@pytest.mark.usefixtures("fake_plots")
def test_a_frozen_network_becomes_a_bundle_with_a_row_of_the_comparison(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = backbone()
    del encoder.graph.output[0], encoder.graph.node[-1]  # logits
    arguments = probe.write(encoder, tiny.SPEC, data.train, tmp_path)
    splits = [f"--{name}={getattr(data, name)}" for name in ("train", "calibrate", "test")]
    named = ["--name=colours", "--version=1", f"--out={tmp_path}"]
    assert main(["import", *arguments, *splits, *named]) == 0

    row = measure(tmp_path / "colours/1", data)

    assert row.accuracy is not None
    assert row.accuracy.value > 0.9
    assert row.flagged is not None
    assert row.flagged.low < 0.05 < row.flagged.high
    assert row.separation.removed_classes[row.combination] > 0.5
    assert set(row.caught) == set(CAUGHT)
    assert "| colours | 9" in tables([figures(row)])
    assert main(["gate-cost", "--bundle", str(tmp_path / "colours/1")]) == 0
    assert capsys.readouterr().out.count(" % of the network (") == 4


def test_an_unknown_model_of_the_comparison_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate-scores", "demo", "resnet"]) == 1

    assert "No model 'resnet': give some of demo, digits," in capsys.readouterr().err


def test_missing_extras_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named 'scipy', wanted by {name}", name="scipy")

    monkeypatch.setattr("importlib.import_module", missing)

    assert main(["fit", "x"]) == 1
    assert "pip install 'tidegate[fit]'" in capsys.readouterr().err


@pytest.fixture
def torch_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment with torch, but without the library that torch exports with."""
    require.cache_clear()
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    yield
    require.cache_clear()


@pytest.mark.usefixtures("torch_only")
@pytest.mark.parametrize("command", [["digits", "--sources", "{empty}"], ["architectures"]])
def test_a_library_that_only_the_export_needs_is_asked_for_before_long_work(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([word.format(empty=tmp_path) for word in command])

    assert code == 1
    assert "onnxscript is not installed: pip install" in capsys.readouterr().err


@pytest.mark.usefixtures("torch_only")
def test_digits_checks_its_output_before_it_reads_its_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", ModuleType("onnxscript"))
    sources, file = tmp_path / "empty", tmp_path / "file"
    (tmp_path / "bundles/digits/1").mkdir(parents=True)
    file.touch()

    codes = [
        main(["digits", "--sources", str(sources), "--out", str(out)])
        for out in (tmp_path / "bundles", file)
    ]

    assert codes == [1, 1]
    printed = capsys.readouterr().err
    assert "already exists, and bundles do not change" in printed
    assert f"{file} is not a folder" in printed


@pytest.mark.usefixtures("torch_only")
@pytest.mark.parametrize(
    "command",
    [
        ["architectures", "--keep", "{file}/bundles"],
        ["architectures", "--json", "{file}/rows.json"],
        ["gpu-report", "--photos", str(PHOTOS[0].parent), "--out", "{file}/report.json"],
        ["demo-calibration", "--packages", "missing"],
    ],
)
def test_a_long_command_checks_its_output_first(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", ModuleType("onnxscript"))
    (tmp_path / "file").touch()
    files = tmp_path / "file/calibration.npz", tmp_path / "file/calibration.json"
    written = "tidegate.models.commands.demo_calibration.calibration_files"
    monkeypatch.setattr(written, lambda precision: files)

    code = main([word.format(file=tmp_path / "file") for word in command])

    assert code == 1
    assert f"{tmp_path / 'file'} is not a folder" in capsys.readouterr().err


def test_import_checks_its_folders_before_it_reads_the_model(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").touch()
    missing = replace(data, calibrate=tmp_path / "missing")
    words = ["import", "onnx:missing.onnx", "--spec", "missing.json"]

    codes = [
        main([*words, *fitting(data, tmp_path / "out")]),
        main([*words, *fitting(missing, tmp_path / "bundles")]),
    ]

    assert codes == [1, 1]
    printed = capsys.readouterr().err
    assert f"{tmp_path / 'out'} is not a folder" in printed
    assert f"The folder {tmp_path / 'missing'} does not exist" in printed
    assert not (tmp_path / "bundles").exists()
