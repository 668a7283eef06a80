"""Compare a variant with the same model in fp32, and reject it if it loses too much."""

from __future__ import annotations

from itertools import islice

import numpy as np

from tidegate.models.data.folders import Split
from tidegate.models.data.outputs import decodable
from tidegate.models.errors import BuildRefused
from tidegate.models.evaluation.speed import cpu_ms_per_image
from tidegate.models.fitting.evaluated import EvaluatedModel
from tidegate.service.bundle.evidence import Comparison, OodReport

_TIMED = 8  # images for the speed measurement


def compare(fp32: EvaluatedModel, variant: EvaluatedModel, test: Split) -> Comparison:
    """Return the changes; both were fitted, calibrated and evaluated on the same splits."""
    pixels = decodable((item.path for item in test.items), fp32.fitted.spec)
    ms = cpu_ms_per_image(
        {"fp32": fp32.fitted.sealed, "variant": variant.fitted.sealed},
        np.stack(list(islice(pixels, _TIMED))),
    )
    before, after = fp32.evaluation, variant.evaluation
    return Comparison(
        accuracy_change=100 * (after.accuracy.value - before.accuracy.value),
        ece_change=after.calibrated.ece - before.calibrated.ece,
        agreement=float(np.mean(np.equal(fp32.test_classes, variant.test_classes))),
        auroc_change={
            new.name: _auroc(new) - _auroc(old)
            for old, new in zip(before.ood, after.ood, strict=True)
        },
        speed=ms["fp32"] / ms["variant"],
        size=len(fp32.fitted.sealed) / len(variant.fitted.sealed),
    )


def check_drop(comparison: Comparison, precision: str, most: float) -> None:
    """Raise BuildRefused if a variant loses more than `most` points of accuracy or OOD AUROC."""
    changes = {"accuracy": comparison.accuracy_change}
    changes |= {f"AUROC on {name}": 100 * v for name, v in comparison.auroc_change.items()}
    worst = min(changes, key=lambda name: changes[name])
    if changes[worst] < -most:
        raise BuildRefused(
            f"In {precision}, the {worst} changes by {changes[worst]:+.2f} points, more than "
            f"--max-drop {most:g} allows. Use fp32, calibrate on more images, or raise --max-drop."
        )


def _auroc(report: OodReport) -> float:
    return report.separation["combined"].auroc
