"""Plausible evidence for a bundle in tests."""

from __future__ import annotations

from tidegate.service.bundle.evidence import (
    ClassReport,
    Comparison,
    Coverage,
    Evaluation,
    KindCaught,
    LeftOutClasses,
    Parity,
    Probabilities,
    Share,
)


def parity() -> Parity:
    return Parity(
        library="torchvision 0.28.0",
        backend="pillow",
        probes=200,
        probe_set="a" * 64,
        compared_values=1000,
        differing_values=0,
        largest_level_difference=0,
        largest_float_difference=2e-7,
        exact=True,
    )


def evaluation() -> Evaluation:
    share = Share(value=0.9, low=0.8, high=0.95, images=50)
    at = {"nll": 0.4, "brier": 0.2, "ece": 0.03, "ece_noise_floor": 0.05, "reliability": ()}
    return Evaluation(
        images=50,
        accuracy=share,
        balanced_accuracy=share,
        macro_f1=0.9,
        uncalibrated=Probabilities(temperature=1.0, **at),  # type: ignore[arg-type]  # numbers and a tuple
        calibrated=Probabilities(temperature=1.25, **at),  # type: ignore[arg-type]  # likewise
        false_rejection=share,
        false_review=share,
        classes=(
            ClassReport(class_id=0, images=50, precision=0.9, recall=0.9, f1=0.9, rejected=None),
        ),
        confusions=(),
    )


def coverage() -> Coverage:
    few = Share(value=0.4, low=0.3, high=0.5, images=60)
    most = Share(value=0.8, low=0.7, high=0.9, images=60)
    tables = KindCaught(name="tables", group="documents", in_fit=False, rejected=few, caught=most)
    return Coverage(
        kinds=(tables,),
        groups={"documents": tables},
        synthetic=tables,
        left_out_classes=LeftOutClasses(groups=10, rejected=few, caught=most),
    )


def comparison() -> Comparison:
    return Comparison(
        accuracy_change=-0.2,
        ece_change=0.001,
        agreement=0.99,
        auroc_change={"textures": -0.004},
        speed=2.1,
        size=3.9,
    )
