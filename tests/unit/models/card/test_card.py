"""The model card shows the content of the manifest as text and plots."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from tests.unit.bundle.evidence import parity
from tidegate.models.card.card import model_card
from tidegate.models.card.card_data import AUROC, CONFUSION, RELIABILITY, SCORES, CardData
from tidegate.models.card.markdown import measured, number, percent
from tidegate.models.card.plots import plots
from tidegate.models.card.preprocessing import describe
from tidegate.models.evaluation.evaluate import Scored, evaluate
from tidegate.models.evaluation.expected_share import ExpectedShares, Range
from tidegate.models.evaluation.intervals import wilson_share
from tidegate.models.evaluation.score_histograms import TEST, score_histograms
from tidegate.service.bundle import manifest as m
from tidegate.service.bundle.evidence import (
    Comparison,
    Coverage,
    Evaluation,
    KindCaught,
)
from tidegate.service.imaging.spec import (
    CentreCrop,
    CentreCropFraction,
    PreprocessSpec,
    Resize,
    ResizeShortestEdge,
)

DIGESTS = {
    name: letter * 64 for name, letter in zip(("train", "fold A", "test"), "abc", strict=True)
}
SPEC = PreprocessSpec(
    exif_orientation="ignore",
    alpha="drop",
    sixteen_bit="clip",
    steps=(
        ResizeShortestEdge(size=256, rounding="truncate", filter="bilinear"),
        CentreCrop(height=224, width=224, offset="half-even"),
    ),
    channel_order="rgb",
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
PARITY = parity().model_copy(
    update={"library": "timm 1.0.31", "probes": 240, "compared_values": 36_126_720}
)

PAGES = KindCaught(
    name="pages",
    group="documents",
    in_fit=False,
    rejected=wilson_share(20, 60),
    caught=wilson_share(45, 60),
)


def scored(rng: np.random.Generator, n: int, classes: int, shift: float) -> Scored:
    truth = rng.integers(0, classes - 1, n)  # the last class has no images
    logits = rng.normal(0, 1, (n, classes)).astype(np.float32)
    logits[np.arange(n), truth] += 3
    energy, mahalanobis, combined = rng.normal(shift, 1, (3, n))
    p = rng.random(n) ** (1 + 2 * shift)
    scores = {"energy": energy, "mahalanobis": mahalanobis}
    return Scored(logits * 2, scores, combined, p, None if shift else truth)


@cache
def card_data(classes: int = 6) -> CardData:
    rng = np.random.default_rng(0)
    test = scored(rng, 400, classes, 0)
    ood = {"textures": scored(rng, 90, classes, 2), "near | far": scored(rng, 80, classes, 0.5)}
    return CardData(
        name="parts",
        version="3",
        provenance=m.Provenance(
            source="timm 1.0.31 resnet50",
            licence="Apache-2.0",
            checkpoint_sha256="e" * 64,
            recipe="tidegate import timm:resnet50",
        ),
        task=m.Task(classes=classes, features=8, height=224, width=224),
        labels=("screw $x_1$", "螺母", "a|b", *(f"part {c}" for c in range(3, classes))),
        preprocess=SPEC,
        parity=PARITY,
        calibration=m.Calibration(fitted=True, temperature=0.7, samples=500),
        gate=m.GateFit(
            scores=("energy", "mahalanobis"),
            combination=("mahalanobis",),
            candidates={"mahalanobis": 0.93, "energy": 0.9, "energy + mahalanobis": 0.92},
            energy_temperature=1,
            mahalanobis=m.MahalanobisFit(
                features="l2-normalised",
                covariance="tied",
                means="class-means",
                shrinkage=None,
                samples=900,
            ),
            guarantee="marginal",
            alpha_reject=0.01,
            alpha_review=0.05,
            fold_a=200,
            fold_b=300,
            splits=DIGESTS,
            calibrated_for_model="f" * 64,
            calibrated_for_preprocess=SPEC.digest,
        ),
        reference=m.ReferenceFit(class_counts=(500,) + (0,) * (classes - 1)),
        splits={"train": 9000, "test": 400},
        left_out={"train": 3},
        evaluation=evaluate(
            test, ood, classes=classes, temperature=0.7, alpha_reject=0.01, alpha_review=0.05
        ),
        expected=ExpectedShares(Range(0.0, 0.03), Range(0.01, 0.08), Range(0.02, 0.1)),
        coverage=Coverage(kinds=(PAGES,), groups={"documents": PAGES}, synthetic=PAGES),
        score_histograms=score_histograms(test, ood),
    )


@cache
def pictures() -> dict[str, bytes]:
    return plots(card_data())


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_manifest_s_numbers_stand_in_the_card() -> None:
    card = model_card(card_data())

    found = Evaluation.model_validate_json(card_data().evaluation.model_dump_json())

    for share in (found.accuracy, found.balanced_accuracy, found.false_rejection):
        assert f"| {percent(share.value)} | {100 * share.low:.2f} to" in section(card, "Results")
    assert f"| {number(found.macro_f1)} |" in card
    for p in (found.uncalibrated, found.calibrated):
        row = " | ".join(f"{x:.4f}" for x in (p.nll, p.brier, p.ece, p.ece_noise_floor))
        assert row in section(card, "Calibration")
    for report in found.ood:
        assert measured(report.rejected) in section(card, "OOD sets")
        for s in report.separation.values():
            row = f"{s.auroc:.3f} | {s.fpr95_keeping_inside:.3f} | {s.fpr95_catching_outside:.3f}"
            assert row in section(card, "OOD sets")


def test_every_class_has_a_row_and_what_is_undefined_is_a_dash() -> None:
    table = section(model_card(card_data()), "Classes")

    assert all(f"({c}) |" in table for c in range(6))
    assert "| part 5 (5) | 0 | " in table
    assert "None" not in model_card(card_data())
    assert "nan" not in model_card(card_data())


def test_of_many_classes_the_worst_twenty_are_shown_with_a_pointer_to_the_others() -> None:
    table = section(model_card(card_data(120)), "Classes")

    rows = [line for line in table.split("\n") if line.startswith("| ")][2:]
    recalls = [float(row.split(" | ")[3]) for row in rows]
    assert len(recalls) == 20
    assert recalls == sorted(recalls)
    seen = [r.recall for r in card_data(120).evaluation.classes if r.recall is not None]
    assert recalls[-1] == pytest.approx(sorted(seen)[19], abs=5e-4)
    assert "manifest.json" in table


def test_a_name_with_a_bar_does_not_break_its_table() -> None:
    assert "| a\\|b (2) |" in model_card(card_data())
    assert "| near \\| far | 80 |" in model_card(card_data())


def test_splits_are_listed_with_digests_and_undecodable_images() -> None:
    data = section(model_card(card_data()), "Data")

    assert f"| train | 9,000 | 3 | `{'a' * 64}` |" in data
    assert f"| fold A | – | 0 | `{'b' * 64}` |" in data


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "**Proved**: 36,126,720 uint8 values"),
        ({"parity": None}, "**Not proved**: the spec was written by hand"),
        (
            {
                "parity": PARITY.model_copy(
                    update={
                        "exact": False,
                        "differing_values": 3613,
                        "largest_level_difference": 2,
                        "refused_probes": ("animated.webp",),
                    }
                )
            },
            "3,613 of them (0.01 %) differ, by at most 2 levels of 255",
        ),
        ({"notes": ("The weights are random.",)}, "- The weights are random.\n"),
        (
            {"calibration": m.Calibration(fitted=False, temperature=1, note="No labels.")},
            "**not fitted**.\nNo labels.",
        ),
        ({}, "part 5 (5) | 0 | 0.000 | – | – | –"),
        ({}, "1 class has no test image"),
        ({}, "on average over calibration sets (marginal)"),
    ],
)
def test_the_card_states_the_data(changed: dict[str, Any], says: str) -> None:
    assert says in model_card(replace(card_data(), **changed))


def test_a_pac_gate_and_classes_with_their_own_threshold_are_explained() -> None:
    gate = card_data().gate.model_copy(
        update={"guarantee": "pac", "guarantee_delta": 0.05, "own_threshold": (0, 2)}
    )

    text = section(model_card(replace(card_data(), gate=gate)), "Gate")

    assert "for this calibration set, except with probability 0.05 (pac)" in text
    assert "2 classes have a threshold" in text
    assert "share" not in text


def test_classes_without_a_threshold_of_their_own_are_named_with_what_they_lack() -> None:
    data = card_data(200)
    missing = (0, 40, 30, *range(100, 297))
    gate = data.gate.model_copy(update={"own_threshold": (0,), "missing_images": missing})

    text = section(model_card(replace(data, gate=gate)), "Gate")

    assert "199 classes share one threshold" in text
    assert "the first 50 of them" in text
    assert text.index("| 30 |") < text.index("| 40 |") < text.index("| 100 |")
    assert "| 296 |" not in text


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.0, 0.001, "**More are rejected than that**"),
        (0.0, 0.9, "0.00 to 90.00 % are rejected"),
        (0.8, 0.9, "Fewer are rejected than that"),
    ],
)
def test_the_measured_false_rejection_is_compared_with_what_chance_explains(
    low: float, high: float, says: str
) -> None:
    expected = replace(card_data().expected, rejected=Range(low, high))

    text = section(model_card(replace(card_data(), expected=expected)), "Gate")

    assert says in text
    assert text.count("than that") == (high < 0.01) + (low > 0.01)


@pytest.mark.parametrize(
    ("ece", "says"), [(0.001, "not above the floor"), (0.9, "above the floor")]
)
def test_the_calibration_error_is_compared_with_its_noise_floor(ece: float, says: str) -> None:
    after = card_data().evaluation.calibrated.model_copy(update={"ece": ece})
    evaluation = card_data().evaluation.model_copy(update={"calibrated": after})

    card = model_card(replace(card_data(), evaluation=evaluation))

    assert f"After scaling, the ECE is {says}" in card


@pytest.mark.lengthy
def test_without_ood_sets_the_card_states_that_none_was_given() -> None:
    without = replace(
        card_data(),
        evaluation=card_data().evaluation.model_copy(update={"ood": ()}),
        score_histograms={},
    )

    assert "No OOD set was given" in section(model_card(without), "OOD sets")
    assert plots(without).keys() == {RELIABILITY, CONFUSION}


def test_a_variant_s_card_shows_its_change_against_fp32() -> None:
    found = Comparison(
        accuracy_change=-0.314,
        ece_change=0.0012,
        agreement=0.984,
        auroc_change={"textures": -0.002},
        speed=2.31,
        size=3.9,
    )

    text = section(
        model_card(replace(card_data(), precision="int8", comparison=found)), "int8 against fp32"
    )

    for said in ("−0.31 points", "+0.0012", "−0.002", "98.40 %", "2.31 ×", "3.90 ×"):
        assert said in text
    assert "against fp32" not in model_card(card_data())


@pytest.mark.lengthy
def test_every_picture_of_the_card_is_drawn_and_no_other() -> None:
    drawn = pictures()

    assert drawn.keys() == {RELIABILITY, CONFUSION, AUROC, SCORES}
    for name, content in drawn.items():
        assert f"]({name})" in model_card(card_data())
        assert ElementTree.fromstring(content).tag.endswith("svg")  # noqa: S314 # our own bytes
    assert CONFUSION not in card_data(120).plots
    assert CONFUSION not in model_card(card_data(120))


@pytest.mark.lengthy
def test_the_same_data_give_the_same_bytes_whatever_the_builder_s_settings() -> None:
    first = pictures()

    with matplotlib.rc_context({"font.size": 20, "axes.linewidth": 9}):
        again = plots(card_data())

    assert again == first
    assert not any(b"<dc:date>" in content for content in first.values())


@pytest.mark.lengthy
def test_names_stay_text_in_any_script_and_are_no_formula() -> None:
    picture = pictures()[CONFUSION].decode()

    assert ">螺母<" in picture
    assert ">screw $x_1$<" in picture


def test_histograms_of_one_score_share_edges_and_count_every_image() -> None:
    for sets in card_data().score_histograms.values():
        assert sets.keys() == {TEST, "textures", "near | far"}
        assert {name: sum(h.counts) for name, h in sets.items()}[TEST] == 400
        assert len({h.edges for h in sets.values()}) == 1


def test_a_score_that_never_differs_is_not_drawn() -> None:
    rng = np.random.default_rng(0)
    test = scored(rng, 50, 4, 0)
    test = replace(test, scores={**test.scores, "energy": np.zeros(50)})

    assert score_histograms(test, {}).keys() == {"mahalanobis"}


def test_every_kind_of_step_has_a_description() -> None:
    spec = SPEC.model_copy(
        update={
            "steps": (
                ResizeShortestEdge(size=256, rounding="round", filter="bicubic"),
                CentreCropFraction(numerator=7, denominator=8, offset="floor"),
                Resize(height=200, width=300, filter="bicubic", backend="torch"),
                CentreCrop(height=192, width=256, offset="ceil"),
            )
        }
    )

    decoding, shortest, fraction, resize, crop, floats = describe(spec)

    assert "EXIF orientation is ignored" in decoding
    assert "shorter side to 256 pixels, bicubic" in shortest
    assert "longer side keeps the aspect ratio and is rounded" in shortest
    assert "square of 7/8 of the shorter side; half a pixel is rounded down" in fraction
    assert "to 200 × 300 pixels (height × width), bicubic, antialiased, by torch" in resize
    assert "Crop the centre to 192 × 256 pixels (height × width)" in crop
    assert "red, green, blue, mean 0.485, 0.456, 0.406" in floats


def test_what_the_gate_catches_is_shown_with_intervals() -> None:
    card = model_card(card_data())

    assert f"| documents | 60 | {measured(PAGES.rejected)} | {measured(PAGES.caught)} |" in card
    assert f"| pages | documents | no | 60 | {measured(PAGES.rejected)}" in card
    assert "Classes left out: not measured" in card
