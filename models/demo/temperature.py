"""Fit the demo's temperature on labelled photographs, and measure it on others.

A photograph is labelled if the name of its file, and a look at it, leave one ImageNet class. The
labels are in photograph_labels.txt: class id, package, and path without its extension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.models.demo.photographs import Photograph
from tidegate.models.demo.spec import ALL, HERE
from tidegate.models.evaluation.intervals import wilson_share
from tidegate.models.evaluation.probabilities import fit_temperature, measured, score_predictions
from tidegate.service.types import Outputs

LABELS = HERE / "photograph_labels.txt"
_DRAWS = 199  # of the bootstrap: (199 + 1) · 0.025 is whole


@dataclass(frozen=True, slots=True)
class Labelled:
    """Logits of labelled images, and their classes."""

    logits: NDArray[np.float32]  # [n, classes]
    class_ids: NDArray[np.int64]  # [n]


@cache
def class_ids_by_photograph() -> dict[tuple[str, str], int]:
    """Return the class of each labelled photograph, by package and path without extension."""
    rows = (line.split(" ", 2) for line in LABELS.read_text("utf-8").splitlines())
    return {(source, path): int(class_id) for class_id, source, path in rows}


def labelled(photographs: list[Photograph], outputs: Outputs) -> Labelled:
    """Return those of the photographs that have a label."""
    known = class_ids_by_photograph()
    class_ids = [known.get((item.source, item.name.rpartition(".")[0]), -1) for item in photographs]
    rows = np.flatnonzero(np.array(class_ids) >= 0)
    return Labelled(outputs.logits[rows], np.array(class_ids, np.int64)[rows])


def together(parts: list[Labelled]) -> Labelled:
    """Return the images of all parts."""
    return Labelled(
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
    )


def fit_and_measure(images: Labelled, others: Mapping[str, Labelled]) -> dict[str, Any]:
    """Return the temperature fitted on `images`, and the measures of it on sets of other images."""
    temperature = fit_temperature(images.logits, images.class_ids)
    sets = {**others, ALL: together(list(others.values()))}
    return {
        "temperature": temperature,
        "interval": _bootstrap(images),
        "images": len(images.class_ids),
        "measured": {name: _measured(part, temperature) for name, part in sets.items()},
    }


def _bootstrap(images: Labelled) -> list[float]:
    """Return the 95 % percentile interval of the temperature over resampled images."""
    rng, n = np.random.default_rng(0), len(images.class_ids)
    draws = (rng.integers(0, n, n) for _ in range(_DRAWS))
    fits = sorted(fit_temperature(images.logits[rows], images.class_ids[rows]) for rows in draws)
    tail = (_DRAWS + 1) // 40
    return [round(fits[tail - 1], 3), round(fits[-tail], 3)]


def _measured(images: Labelled, temperature: float) -> dict[str, Any]:
    right = images.logits.argmax(axis=1) == images.class_ids
    share = wilson_share(int(right.sum()), len(right))
    return {
        "images": len(right),
        "accuracy": [round(value, 4) for value in (share.value, share.low, share.high)],
        "before": _probabilities(images, 1.0),
        "after": _probabilities(images, temperature),
    }


def _probabilities(images: Labelled, temperature: float) -> dict[str, float]:
    predictions = score_predictions(images.logits, images.class_ids, temperature)
    found = measured(predictions, images.class_ids, temperature)
    return {
        "confidence": round(float(predictions.confidence.mean()), 4),
        "ece": round(found.ece, 4),
        "ece_noise_floor": round(found.ece_noise_floor, 4),
        "nll": round(found.nll, 4),
        "brier": round(found.brier, 4),
    }
