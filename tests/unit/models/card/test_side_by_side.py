"""The card of a student says what it keeps of its teacher, and whether the teacher helped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.models.card.test_card import card_data
from tidegate.models.card.card import model_card
from tidegate.models.card.side_by_side import sentences
from tidegate.models.evaluation.intervals import wilson_share
from tidegate.models.evaluation.paired import Paired
from tidegate.models.fitting.side_by_side import ALONE, STUDENT, TEACHER, Measured, SideBySide


def measured(name: str, right: int, size: int, cpu_ms: float) -> Measured:
    share = wilson_share(right, 1000)
    return Measured(
        name=name,
        source=f"timm {name}",
        precision="fp32" if name == TEACHER else "int8",
        size=(32, 64),
        accuracy=share,
        balanced_accuracy=share,
        ece=0.01,
        ece_noise_floor=0.02,
        agreement=right / 1000,
        auroc={"textures": 0.9},
        caught=0.75,
        bytes=size,
        cpu_ms=cpu_ms,
    )


def found(only_student: int, only_alone: int) -> SideBySide:
    models = (
        measured(TEACHER, 980, 20_000_000, 4.0),
        measured(STUDENT, 960, 1_000_000, 0.5),
        measured(ALONE, 960 - only_student + only_alone, 1_000_000, 0.5),
    )
    paired = {TEACHER: Paired(5, 25, 1000), ALONE: Paired(only_student, only_alone, 1000)}
    return SideBySide(models, paired, "Import the other one.")


def test_the_card_has_a_column_for_each_model() -> None:
    card = model_card(replace(card_data(), side_by_side=found(10, 5)))

    assert f"| measure | {TEACHER} | {STUDENT} | {ALONE} |" in card
    assert "| precision | fp32 | int8 | int8 |" in card
    assert "| input | 32 × 64 | 32 × 64 | 32 × 64 |" in card
    assert "| same class as the teacher | – | 96.00 % | 95.50 % |" in card
    assert "| AUROC on textures, combined | 0.900 | 0.900 | 0.900 |" in card
    assert "| bytes of model.onnx | 20,000,000 | 1,000,000 | 1,000,000 |" in card
    assert "| CPU ms per image | 4.000 | 0.500 | 0.500 |" in card


def test_what_the_student_keeps_is_a_sentence() -> None:
    first, _ = sentences(found(10, 5))

    assert first == (
        "The student has 96.00 % accuracy, 97.96 % of the teacher's 98.00 %; 20.0 × fewer bytes; "
        "8.0 × less CPU time."
    )


@pytest.mark.parametrize(
    ("only_student", "only_alone", "verdict"),
    [
        (10, 5, "no clear difference; here the teacher did not raise the accuracy."),
        (40, 10, "the student is better with its teacher."),
        (10, 40, "**it is better without the teacher.** Import the other one."),
    ],
)
def test_the_verdict_is_that_of_the_pairs(only_student: int, only_alone: int, verdict: str) -> None:
    _, second = sentences(found(only_student, only_alone))

    assert second.endswith(verdict)
    points = (only_student - only_alone) / 10
    assert f"differs by {points:+.2f} points".replace("-", "−") in second


def test_a_model_that_was_not_distilled_has_no_such_section() -> None:
    assert "## Teacher and student" not in model_card(card_data())
    assert sentences(None) == []
