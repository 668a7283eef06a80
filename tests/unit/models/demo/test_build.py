"""Building the demo bundle: its answers, rejected sources, and a second build."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tidegate.models.demo import calibration_file
from tidegate.models.demo.build import build, check_witnesses, provenance
from tidegate.models.demo.card import model_card
from tidegate.models.demo.source import Wheel
from tidegate.models.demo.spec import LABELS_FILE, NAME, PREPROCESS
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting import synthetic_ood
from tidegate.models.fitting.coverage_floor import WARN_BELOW
from tidegate.models.probes.golden import golden_probes
from tidegate.models.probes.photographs import PHOTOS
from tidegate.models.sealing.check import run
from tidegate.service.bundle.evidence import Coverage
from tidegate.service.bundle.golden import check_golden
from tidegate.service.bundle.store import Bundle, open_bundle
from tidegate.service.cli import main
from tidegate.service.imaging.preprocess import apply, preprocess
from tidegate.service.ood.gates import Verdict
from tidegate.service.types import Outputs, Pixels

pytestmark = pytest.mark.process

MAX_PIXELS = 10_000_000


def photograph(name: str) -> Pixels:
    path = next(path for path in PHOTOS if path.name == name)
    return preprocess(path.read_bytes(), PREPROCESS, MAX_PIXELS)


def answer(bundle: Bundle, pixels: list[Pixels]) -> tuple[Outputs, list[Verdict]]:
    outputs = run(bundle.model_path.read_bytes(), pixels)
    verdicts = [bundle.gate.judge(scores, 0) for scores in outputs.scores.tolist()]
    return outputs, verdicts


@pytest.mark.parametrize(
    ("name", "label", "probability"),
    [
        ("chelsea.png", "a cat having a striped coat", 0.39),
        ("coffee.png", "espresso", 0.95),
        ("camera.png", "tripod", 0.94),
        ("rocket.jpg", "missile", 0.32),
    ],
)
def test_known_photographs_get_the_expected_answers(
    demo: Bundle, name: str, label: str, probability: float
) -> None:
    outputs, (verdict,) = answer(demo, [photograph(name)])

    logits = outputs.logits[0].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    assert demo.labels[int(logits.argmax())] == label
    assert probabilities.max() == pytest.approx(probability, abs=0.01)
    assert verdict.decision == "accept"


@pytest.mark.parametrize("level", [0, 127, 255], ids=["black", "grey", "white"])
def test_flat_frames_are_rejected(demo: Bundle, level: int) -> None:
    frame = apply(Image.new("RGB", (300, 200), (level, level, level)), PREPROCESS)

    _, (verdict,) = answer(demo, [frame])

    assert verdict.decision == "reject"


@pytest.mark.parametrize("kind", ["uniform noise", "gaussian noise", "flat colours"])
def test_images_that_show_nothing_are_rejected(demo: Bundle, kind: str) -> None:
    _, verdicts = answer(demo, synthetic_ood.generate(kind, 20, 7, PREPROCESS))

    assert sum(verdict.decision == "reject" for verdict in verdicts) >= 19
    assert all(verdict.decision != "accept" for verdict in verdicts)


def test_golden_probes_pass_on_the_engine_that_made_them(demo: Bundle) -> None:
    sealed = demo.model_path.read_bytes()

    assert check_golden(demo, lambda pixels: run(sealed, pixels)) == 10


def test_the_probes_are_in_the_modes_they_are_named_after() -> None:
    probes = {
        name.removeprefix("golden/"): Image.open(io.BytesIO(content))
        for name, content in golden_probes().items()
    }

    assert probes["rocket-exif-6.jpg"].getexif()[0x0112] == 6
    assert probes["coffee-cmyk.jpg"].mode == "CMYK"
    assert probes["chelsea-palette.png"].mode == "P"
    assert probes["chelsea-palette.png"].has_transparency_data
    assert probes["camera-16-bit.png"].mode == "I;16"
    assert golden_probes() == golden_probes()


def test_a_turned_probe_looks_like_the_photograph_it_was_made_from() -> None:
    turned = golden_probes()["golden/rocket-exif-6.jpg"]

    pixels = preprocess(turned, PREPROCESS, MAX_PIXELS).astype(np.int16)

    assert np.abs(pixels - photograph("rocket.jpg")).mean() < 3  # JPEG twice, not another side up


def test_the_bundle_records_its_origin(demo: Bundle) -> None:
    manifest = demo.manifest

    assert manifest.provenance == provenance()
    assert (manifest.task.classes, manifest.task.features) == (1000, 1280)
    assert manifest.calibration.fitted
    assert len(set(manifest.gate.splits.values())) == 3


def test_what_the_gate_catches_is_sealed_from_the_calibration(demo: Bundle) -> None:
    coverage = demo.manifest.coverage
    measured = Coverage.model_validate(calibration_file.load().report["coverage"])

    assert coverage is not None
    assert [kind.name for kind in coverage.kinds] == [kind.name for kind in measured.kinds]
    assert coverage.synthetic.caught.value == pytest.approx(measured.synthetic.caught.value)
    assert coverage.synthetic.caught.value > WARN_BELOW


def test_the_card_is_made_from_the_committed_calibration(demo: Bundle) -> None:
    card = (demo.path / "MODEL_CARD.md").read_text("utf-8")

    assert card == model_card(calibration_file.load().report)
    assert "$" not in card


def test_labels_are_a_thousand_names() -> None:
    labels = LABELS_FILE.read_text("utf-8").splitlines()

    assert len(labels) == 1000
    assert all(label == label.strip() and label for label in labels)


@pytest.fixture
def built(demo: Bundle, tmp_path: Path) -> Path:
    """A folder of bundles with a copy of the demo."""
    shutil.copytree(demo.path, tmp_path / NAME / "1")
    return tmp_path


def test_a_second_build_keeps_the_first(demo: Bundle, built: Path) -> None:
    written = (built / NAME / "1/manifest.json").stat().st_mtime_ns

    second = build(built, None)

    assert second.digest == demo.digest
    assert (second.path / "manifest.json").stat().st_mtime_ns == written


def test_the_command_builds_a_damaged_bundle_again_with_the_same_bytes(
    demo: Bundle, wheel: Wheel, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = built / NAME / "1"
    (folder / "model.onnx").write_bytes(b"cut off")

    code = main(["demo", "--out", str(built), "--wheel", str(wheel.path)])

    printed = capsys.readouterr()
    assert (code, printed.out) == (0, f"{folder}\n")
    assert "Demo bundle [5/5]: running the golden probes and writing the bundle" in printed.err
    assert (folder / "model.onnx").read_bytes() == demo.model_path.read_bytes()
    assert open_bundle(folder).digest == demo.digest


def test_a_bundle_whose_probes_are_decoded_otherwise_is_built_again(
    demo: Bundle,
    built: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Path] = []

    def fake_build(model_dir: Path, *_: object) -> Bundle:
        asked.append(model_dir)
        return demo

    monkeypatch.setattr("tidegate.models.demo.build.pixels_digest", lambda _pixels: "0" * 64)
    monkeypatch.setattr("tidegate.models.demo.build._build", fake_build)

    build(built, None)

    assert asked == [built / NAME]
    assert "was built with another libjpeg. Building" in capsys.readouterr().err


def test_the_recipe_does_not_depend_on_the_versions_of_tools(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made_as = provenance()
    monkeypatch.setattr(np, "__version__", "9")
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "9")

    assert provenance() == made_as


def test_a_model_whose_scores_differ_from_the_calibration_is_rejected() -> None:
    report = calibration_file.load().report
    measured: dict[str, dict[str, Any]] = {
        name: dict(scores) for name, scores in report["witnesses"].items()
    }
    check_witnesses(measured, report)
    measured["chelsea.png"]["energy"] *= 1.002

    with pytest.raises(BuildRefused, match=r"energy score of chelsea\.png"):
        check_witnesses(measured, report)


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--wheel", "nowhere.whl"],
        ["demo", "--out", "/dev/null/bundles"],
    ],
    ids=["no wheel", "no folder"],
)
def test_a_users_mistake_is_one_line_and_exit_code_1(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    defaults = ["--out", str(tmp_path)] if "--out" not in arguments else []

    code = main([*arguments, *defaults])

    assert code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("tidegate: ")


def test_an_unknown_command_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bake"])

    assert exit_.value.code == 2
    assert "demo" in capsys.readouterr().err


def test_the_demo_needs_only_what_make_serve_installs() -> None:
    missing = "sys.modules.update(dict.fromkeys(('matplotlib', 'scipy', 'sklearn', 'torch')))"
    code = f"import sys; {missing}; import tidegate.models.commands.demo"
    subprocess.run([sys.executable, "-c", code], check=True)
